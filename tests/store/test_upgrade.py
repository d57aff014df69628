"""A database that an older walrusd left is copied, brought up to date and read on, whatever happens meanwhile."""

import errno
import os
import stat
from itertools import count
from pathlib import Path

import pytest

from tests.fakes.deaths import lives_of
from tests.fakes.model import FakeModel
from tests.fakes.numbered_disk import Before, numbered_disk
from tests.fakes.stores import SqliteDisk, commit, write
from tests.store import crashing_upgrade
from tests.store.old_database import content, leave_version_1, version
from walrus_protocol.content import User
from walrusd.agent.agent import Agent
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.store.log import Filter, Output
from walrusd.store.migrations import MIGRATIONS
from walrusd.store.refusals import CannotOpen


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    leave_version_1(tmp_path)
    return SqliteDisk(tmp_path)


async def open_and_close(disk: SqliteDisk) -> None:
    await (await disk.open()).aclose()


def copies(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if "backup" in name)


async def test_the_sessions_of_version_1_go_on(disk: SqliteDisk) -> None:
    log = await disk.open()
    model = FakeModel()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await runtime.recover()
        said = [
            await (await runtime.send(session, Incoming(content=content, key=key))).outcome()
            for session, content, key in ((1, "Hi", "hi"), (3, "Tell me a story", "story"), (3, "The end?", "end"))
        ]
        assert await runtime.create_session("walrus", key="first") == 1
        assert await runtime.create_session("walrus") == 4
    assert [(result.turn, result.stop_reason, result.text) for result in said] == [
        (1, "text_response", "Hello."),
        (1, "interrupted", "Once upon a"),
        (3, "text_response", "ok"),
    ]
    assert [asked[-1] for asked in model.asked] == [User(content="From ann:\nAnd then?"), User(content="The end?")]
    assert await commit(log, write(session=4, output=Output(ref="r", body=b"new")))
    assert await log.output(4, "r", 0, 9) == b"new"
    listed = await log.outlines(Filter(include_closed=True))
    assert [(outline.id, outline.state) for outline, _ in listed] == [
        (4, "idle"),
        (3, "idle"),
        (2, "closed"),
        (1, "idle"),
    ]
    await log.aclose()


async def test_a_copy_of_what_was_there_is_kept_beside_it(disk: SqliteDisk) -> None:
    was = content(Path(disk.path))
    await open_and_close(disk)
    assert copies(disk.folder) == ["walrus.db.v1.backup"]
    copy = disk.folder / "walrus.db.v1.backup"
    assert (version(copy), content(copy)) == (1, was)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert (version(Path(disk.path)), content(Path(disk.path))) == (len(MIGRATIONS), was)


async def test_a_copy_replaces_no_other(disk: SqliteDisk) -> None:
    (disk.folder / "walrus.db.v1.backup").write_bytes(b"of another time")
    await open_and_close(disk)
    assert copies(disk.folder) == ["walrus.db.v1.backup", "walrus.db.v1.backup.2"]
    assert (disk.folder / "walrus.db.v1.backup").read_bytes() == b"of another time"
    assert version(disk.folder / "walrus.db.v1.backup.2") == 1


async def test_killed_at_any_step_of_the_upgrade_nothing_is_lost_and_the_next_start_makes_it(tmp_path: Path) -> None:
    survived = await lives_of(crashing_upgrade.__file__, tmp_path)
    leave_version_1(tmp_path)
    was = content(tmp_path / "walrus.db")
    for step in range(1, survived + 1):
        folder = tmp_path / str(step)
        await open_and_close(SqliteDisk(folder))
        assert (version(folder / "walrus.db"), content(folder / "walrus.db")) == (len(MIGRATIONS), was)
        assert copies(folder) == ["walrus.db.v1.backup"]
        assert (version(folder / "walrus.db.v1.backup"), content(folder / "walrus.db.v1.backup")) == (1, was)
    assert survived > 30


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_at_any_step_of_the_upgrade_is_named_and_what_was_there_stays(
    tmp_path: Path, number: int
) -> None:
    refused: CannotOpen | None
    for step in count(1):
        folder = tmp_path / str(step)
        folder.mkdir()
        leave_version_1(folder)
        was = content(folder / "walrus.db")
        refused = await refusal(SqliteDisk(folder), failing_from(step, number))
        assert set(copies(folder)) <= {"walrus.db.v1.backup"}
        await open_and_close(SqliteDisk(folder))
        assert content(folder / "walrus.db") == was
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
