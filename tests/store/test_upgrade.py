"""A database of an older walrusd is backed up, migrated and used, even if the upgrade is interrupted."""

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

from tests.fakes.fault_injecting_vfs import StepHook, fault_injecting_vfs
from tests.fakes.fork_and_kill import run_until_survived
from tests.fakes.model import FakeModel
from tests.fakes.stores import SqliteDisk, commit, write
from tests.store import crashing_upgrade
from tests.store.old_database import VERSIONS, create, schema_version, table_contents
from walrus_protocol.content import Assistant, User
from walrus_protocol.database.schema import DAEMON_SESSION
from walrusd.agent.agent import Agent
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.store.database import AUTO_VACUUM_INCREMENTAL
from walrusd.store.errors import DatabaseUnusable
from walrusd.store.migrations import MIGRATIONS
from walrusd.store.tables.output import AddOutput, ReleaseOutput, StoredOutput, read_output
from walrusd.store.tables.session import SessionFilter


@pytest.fixture(params=VERSIONS)
def old_version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def disk(tmp_path: Path, old_version: int) -> SqliteDisk:
    create(old_version, tmp_path)
    return SqliteDisk(tmp_path)


async def open_and_close(disk: SqliteDisk) -> None:
    await (await disk.open()).aclose()


def backup_names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if "backup" in name)


async def test_the_sessions_of_an_old_database_continue(disk: SqliteDisk, old_version: int) -> None:
    log = await disk.open()
    forks = [4] if old_version >= 3 else []
    model = FakeModel()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await runtime.recover()
        results = [
            await (await runtime.send(session, MessageRequest(content=content, key=key))).wait_result()
            for session, content, key in ((1, "Hi", "hi"), (3, "Tell me a story", "story"), (3, "The end?", "end"))
        ]
        assert await runtime.create_session("walrus", key="first") == 1
        new = await runtime.create_session("walrus")
        assert new == 4 + len(forks)
    assert [(result.turn, result.stop_reason, result.text) for result in results] == [
        (1, "text_response", "Hello."),
        (1, "text_response", "ok"),
        (3, "text_response", "ok"),
    ]
    assert [request[-1] for request in model.requests[1:]] == [
        User(content="From ann:\nAnd then?"),
        User(content="The end?"),
    ]
    assert await commit(log, write(session=new, mutations=[AddOutput(StoredOutput(ref="r", body=b"new"))]))
    assert await log.read(read_output, new, "r", 0, 9) == b"new"
    listed = await log.list_sessions(SessionFilter(include_closed=True))
    assert [(state.id, state.state) for state, _ in listed] == [
        (new, "idle"),
        *((fork, "idle") for fork in forks),
        (3, "idle"),
        (2, "closed"),
        (1, "idle"),
    ]
    await log.aclose()


async def test_a_fork_in_an_old_database_continues_from_its_parent(tmp_path: Path) -> None:
    create(3, tmp_path)
    log = await SqliteDisk(tmp_path).open()
    model = FakeModel()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await (await runtime.send(4, MessageRequest(content="And now?"))).wait_result()
    assert model.requests == [[User(content="Go"), Assistant(content="Bye."), User(content="And now?")]]
    await log.aclose()


async def test_parents_and_closing_times_are_migrated_from_the_stored_session_states(tmp_path: Path) -> None:
    create(3, tmp_path)
    await open_and_close(SqliteDisk(tmp_path))
    db = apsw.Connection(str(tmp_path / "walrus.db"), apsw.SQLITE_OPEN_READONLY)
    assert db.execute("SELECT child, parent, seq FROM fork").fetchall() == [(4, 2, 5)]
    closed = db.execute("SELECT id, closed_at FROM session WHERE closed_at IS NOT NULL").fetchall()
    assert closed == [(2, 1800000008.0)]
    db.close()


async def test_messages_from_before_the_search_index_are_found(disk: SqliteDisk) -> None:
    log = await disk.open()
    found = [[(hit.session, hit.seq) for hit in await log.search(words)] for words in ("hello", "bye", "story", "h*")]
    assert found == [[(1, 3)], [(2, 3)], [(3, 2)], [(1, 3), (1, 2)]]
    body = b'{"type":"user_message","content":"Hello again"}'
    await commit(log, write(session=1, bodies=[body], first_seq=5))
    assert [hit.seq for hit in await log.search("hello")] == [5, 3]
    await log.aclose()


async def test_an_upgrade_keeps_a_backup_beside_the_database(disk: SqliteDisk, old_version: int) -> None:
    contents = table_contents(Path(disk.path), old_version)
    structlog.reset_defaults()  # also log lines that are not errors
    with capture_logs() as log_lines:
        await open_and_close(disk)
        await open_and_close(disk)
    assert backup_names(disk.folder) == [f"walrus.db.v{old_version}.backup"]
    copy = disk.folder / f"walrus.db.v{old_version}.backup"
    [line] = log_lines
    assert line == {
        "event": "database_upgraded",
        "log_level": "info",
        "schema_before": old_version,
        "schema": len(MIGRATIONS),
        "copy": str(copy),
    }
    assert (schema_version(copy), table_contents(copy, old_version)) == (old_version, contents)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert (schema_version(Path(disk.path)), table_contents(Path(disk.path), old_version)) == (
        len(MIGRATIONS),
        contents,
    )


async def test_an_old_database_is_rewritten_so_that_it_can_return_free_pages(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, mutations=[AddOutput(StoredOutput(ref="large", body=b"x" * 5_000_000))]))
    await commit(log, write(session=DAEMON_SESSION, mutations=[ReleaseOutput(1, "large")]))
    await log.sweep()
    await log.aclose()
    assert os.stat(disk.path).st_size < 2_000_000


async def test_the_rewrite_uses_the_home_folder_and_leaves_no_write_ahead_log(disk: SqliteDisk) -> None:
    """The temporary copy may not fit elsewhere: /tmp is often in memory."""
    db = apsw.Connection(disk.path)
    db.execute("CREATE TABLE more (body BLOB)")
    for _ in range(4):
        db.execute("INSERT INTO more VALUES (zeroblob(5000000))")
    db.close()
    others, found = deleted_open_files(), set[str]()

    def before(step: str, name: str) -> None:
        if not name:
            found.update(deleted_open_files() - others)

    with fault_injecting_vfs(before):
        log = await disk.open()
    assert {os.path.dirname(name) for name in found} == {str(disk.folder)}
    assert log.file_sizes().wal_bytes == 0
    await log.aclose()


def deleted_open_files() -> set[str]:
    """Returns the deleted files that this process still has open."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {name for name in found if name.endswith(" (deleted)")}


def auto_vacuum(path: Path) -> object:
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    found: object = db.pragma("auto_vacuum")
    db.close()
    return found


async def test_a_backup_replaces_no_other_file(disk: SqliteDisk, old_version: int) -> None:
    name = f"walrus.db.v{old_version}.backup"
    (disk.folder / name).write_bytes(b"another file")
    await open_and_close(disk)
    assert backup_names(disk.folder) == [name, f"{name}.2"]
    assert (disk.folder / name).read_bytes() == b"another file"
    assert schema_version(disk.folder / f"{name}.2") == old_version


@pytest.mark.slow
async def test_a_kill_during_an_upgrade_loses_nothing_and_the_next_start_finishes_it(tmp_path: Path) -> None:
    survived = await run_until_survived(crashing_upgrade.__file__, tmp_path)
    create(1, tmp_path)
    contents = table_contents(tmp_path / "walrus.db", 1)
    for step in range(1, survived + 1):
        folder = tmp_path / str(step)
        await open_and_close(SqliteDisk(folder))
        assert (schema_version(folder / "walrus.db"), table_contents(folder / "walrus.db", 1)) == (
            len(MIGRATIONS),
            contents,
        )
        assert auto_vacuum(folder / "walrus.db") == AUTO_VACUUM_INCREMENTAL
        assert backup_names(folder) == ["walrus.db.v1.backup"]
        assert (schema_version(folder / "walrus.db.v1.backup"), table_contents(folder / "walrus.db.v1.backup", 1)) == (
            1,
            contents,
        )
    assert survived > 30


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_failure_during_an_upgrade_is_reported_and_loses_nothing(tmp_path: Path, number: int) -> None:
    failure: DatabaseUnusable | None
    for step in count(1):
        folder = tmp_path / str(step)
        folder.mkdir()
        create(1, folder)
        contents = table_contents(folder / "walrus.db", 1)
        failure = await open_failure(SqliteDisk(folder), failing_from(step, number))
        assert set(backup_names(folder)) <= {"walrus.db.v1.backup"}
        await open_and_close(SqliteDisk(folder))
        assert table_contents(folder / "walrus.db", 1) == contents
        assert auto_vacuum(folder / "walrus.db") == AUTO_VACUUM_INCREMENTAL, (
            "a failed rewrite is repeated at the next start"
        )
        assert backup_names(folder) == ["walrus.db.v1.backup"]
        if not failure:
            break
        assert os.strerror(number) in str(failure)
        assert failure.hint
    assert step > 20


def failing_from(step: int, number: int) -> StepHook:
    steps = count(1)

    def before(_step: str, _name: str) -> None:
        if next(steps) >= step:
            raise OSError(number, os.strerror(number))

    return before


async def open_failure(disk: SqliteDisk, hook: StepHook) -> DatabaseUnusable | None:
    """Returns the failure, or None if the database opens in spite of the failing disk."""
    with fault_injecting_vfs(hook):
        try:
            await open_and_close(disk)
        except DatabaseUnusable as failure:
            return failure
    return None
