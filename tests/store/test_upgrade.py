"""A database that an older walrusd left is copied, brought up to date and read on, whatever happens meanwhile."""

import errno
import os
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path

import apsw
import pytest
import structlog
from structlog.testing import capture_logs

from tests.fakes.deaths import lives_of
from tests.fakes.model import FakeModel
from tests.fakes.numbered_disk import Before, numbered_disk
from tests.fakes.stores import SqliteDisk, commit, write
from tests.store import crashing_upgrade
from tests.store.old_database import VERSIONS, content, leave, version
from walrus_protocol.content import Assistant, User
from walrusd.agent.agent import Agent
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.store.database import INCREMENTAL
from walrusd.store.log import DAEMON, Filter, Output
from walrusd.store.migrations import MIGRATIONS
from walrusd.store.refusals import CannotOpen


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def disk(tmp_path: Path, old: int) -> SqliteDisk:
    leave(old, tmp_path)
    return SqliteDisk(tmp_path)


async def open_and_close(disk: SqliteDisk) -> None:
    await (await disk.open()).aclose()


def copies(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if "backup" in name)


async def test_the_sessions_of_an_old_version_go_on(disk: SqliteDisk, old: int) -> None:
    log = await disk.open()
    forks = [4] if old >= 3 else []
    model = FakeModel()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await runtime.recover()
        said = [
            await (await runtime.send(session, Incoming(content=content, key=key))).outcome()
            for session, content, key in ((1, "Hi", "hi"), (3, "Tell me a story", "story"), (3, "The end?", "end"))
        ]
        assert await runtime.create_session("walrus", key="first") == 1
        new = await runtime.create_session("walrus")
        assert new == 4 + len(forks)
    assert [(result.turn, result.stop_reason, result.text) for result in said] == [
        (1, "text_response", "Hello."),
        (1, "text_response", "ok"),
        (3, "text_response", "ok"),
    ]
    assert [asked[-1] for asked in model.asked[1:]] == [User(content="From ann:\nAnd then?"), User(content="The end?")]
    assert await commit(log, write(session=new, output=Output(ref="r", body=b"new")))
    assert await log.output(new, "r", 0, 9) == b"new"
    listed = await log.outlines(Filter(include_closed=True))
    assert [(outline.id, outline.state) for outline, _ in listed] == [
        (new, "idle"),
        *((fork, "idle") for fork in forks),
        (3, "idle"),
        (2, "closed"),
        (1, "idle"),
    ]
    await log.aclose()


async def test_a_fork_of_an_old_version_goes_on_from_its_parent(tmp_path: Path) -> None:
    leave(3, tmp_path)
    log = await SqliteDisk(tmp_path).open()
    model = FakeModel()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await (await runtime.send(4, Incoming(content="And now?"))).outcome()
    assert model.asked == [[User(content="Go"), Assistant(content="Bye."), User(content="And now?")]]
    await log.aclose()


async def test_who_goes_on_from_whom_and_when_a_session_was_closed_is_taken_from_the_outlines(tmp_path: Path) -> None:
    leave(3, tmp_path)
    await open_and_close(SqliteDisk(tmp_path))
    db = apsw.Connection(str(tmp_path / "walrus.db"), apsw.SQLITE_OPEN_READONLY)
    assert db.execute("SELECT child, parent, seq FROM fork").fetchall() == [(4, 2, 5)]
    closed = db.execute("SELECT id, closed_at FROM session WHERE closed_at IS NOT NULL").fetchall()
    assert closed == [(2, 1800000008.0)]
    db.close()


async def test_what_was_said_before_there_was_a_search_is_found(disk: SqliteDisk) -> None:
    log = await disk.open()
    found = [[(hit.session, hit.seq) for hit in await log.search(words)] for words in ("hello", "bye", "story", "h*")]
    assert found == [[(1, 3)], [(2, 3)], [(3, 2)], [(1, 3), (1, 2)]]
    body = b'{"type":"user_message","content":"Hello again"}'
    await commit(log, write(session=1, bodies=[body], first_seq=5))
    assert [hit.seq for hit in await log.search("hello")] == [5, 3]
    await log.aclose()


async def test_a_copy_of_what_was_there_is_kept_beside_it(disk: SqliteDisk, old: int) -> None:
    was = content(Path(disk.path), old)
    structlog.reset_defaults()  # what is no error is said, too
    with capture_logs() as said:
        await open_and_close(disk)
        await open_and_close(disk)
    assert copies(disk.folder) == [f"walrus.db.v{old}.backup"]
    copy = disk.folder / f"walrus.db.v{old}.backup"
    [line] = said
    assert line == {
        "event": "database upgraded",
        "log_level": "info",
        "schema_before": old,
        "schema": len(MIGRATIONS),
        "copy": str(copy),
    }
    assert (version(copy), content(copy, old)) == (old, was)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert (version(Path(disk.path)), content(Path(disk.path), old)) == (len(MIGRATIONS), was)


async def test_an_old_database_is_written_anew_so_that_free_pages_can_be_given_back(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, output=Output(ref="large", body=b"x" * 5_000_000)))
    await commit(log, write(session=DAEMON, released=[(1, "large")]))
    await log.sweep()
    await log.aclose()
    assert os.stat(disk.path).st_size < 2_000_000


async def test_it_is_written_anew_where_it_lies_and_no_long_log_is_left(disk: SqliteDisk) -> None:
    """Elsewhere there may be no room for what is only there meanwhile: /tmp may be a piece of the memory."""
    db = apsw.Connection(disk.path)
    db.execute("CREATE TABLE more (body BLOB)")
    for _ in range(4):
        db.execute("INSERT INTO more VALUES (zeroblob(5000000))")
    db.close()
    others, found = nameless(), set[str]()

    def before(step: str, name: str) -> None:
        if not name:
            found.update(nameless() - others)

    with numbered_disk(before):
        log = await disk.open()
    assert {os.path.dirname(name) for name in found} == {str(disk.folder)}
    assert log.sizes().wal_bytes == 0
    await log.aclose()


def nameless() -> set[str]:
    """The files that this process has open and that nobody else can."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the list itself
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {name for name in found if name.endswith(" (deleted)")}


def auto_vacuum(path: Path) -> object:
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    found: object = db.pragma("auto_vacuum")
    db.close()
    return found


async def test_a_copy_replaces_no_other(disk: SqliteDisk, old: int) -> None:
    name = f"walrus.db.v{old}.backup"
    (disk.folder / name).write_bytes(b"of another time")
    await open_and_close(disk)
    assert copies(disk.folder) == [name, f"{name}.2"]
    assert (disk.folder / name).read_bytes() == b"of another time"
    assert version(disk.folder / f"{name}.2") == old


async def test_killed_at_any_step_of_the_upgrade_nothing_is_lost_and_the_next_start_makes_it(tmp_path: Path) -> None:
    survived = await lives_of(crashing_upgrade.__file__, tmp_path)
    leave(1, tmp_path)
    was = content(tmp_path / "walrus.db", 1)
    for step in range(1, survived + 1):
        folder = tmp_path / str(step)
        await open_and_close(SqliteDisk(folder))
        assert (version(folder / "walrus.db"), content(folder / "walrus.db", 1)) == (len(MIGRATIONS), was)
        assert auto_vacuum(folder / "walrus.db") == INCREMENTAL
        assert copies(folder) == ["walrus.db.v1.backup"]
        assert (version(folder / "walrus.db.v1.backup"), content(folder / "walrus.db.v1.backup", 1)) == (1, was)
    assert survived > 30


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_at_any_step_of_the_upgrade_is_named_and_what_was_there_stays(
    tmp_path: Path, number: int
) -> None:
    refused: CannotOpen | None
    for step in count(1):
        folder = tmp_path / str(step)
        folder.mkdir()
        leave(1, folder)
        was = content(folder / "walrus.db", 1)
        refused = await refusal(SqliteDisk(folder), failing_from(step, number))
        assert set(copies(folder)) <= {"walrus.db.v1.backup"}
        await open_and_close(SqliteDisk(folder))
        assert content(folder / "walrus.db", 1) == was
        assert auto_vacuum(folder / "walrus.db") == INCREMENTAL, (
            "what could not be written anew is so at the next start"
        )
        assert copies(folder) == ["walrus.db.v1.backup"]
        if not refused:
            break
        assert os.strerror(number) in str(refused)
        assert refused.hint
    assert step > 20


def failing_from(step: int, number: int) -> Before:
    steps = count(1)

    def before(_step: str, _name: str) -> None:
        if next(steps) >= step:
            raise OSError(number, os.strerror(number))

    return before


async def refusal(disk: SqliteDisk, before: Before) -> CannotOpen | None:
    """None where it opens all the same."""
    with numbered_disk(before):
        try:
            await open_and_close(disk)
        except CannotOpen as refused:
            return refused
    return None
