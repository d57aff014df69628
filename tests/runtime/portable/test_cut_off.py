"""An import that is cut off, by a kill or by a disk that fails, has left the whole session or nothing."""

import json
import os
import sys
from pathlib import Path

import apsw
import pytest
import trio

from tests.fakes.documents import as_text, exported, imported, with_ids
from tests.fakes.stores import LogDisk, SqliteDisk, disk
from tests.runtime.portable import dying_import
from tests.runtime.portable.dying_import import TURNS, large
from walrus_protocol.problems import Problem
from walrusd.store.log import Filter, Log, StorageFull, Write
from walrusd.store.memory import MemoryLog

__all__ = ["disk"]


async def test_killed_at_any_write_there_is_the_whole_session_or_nothing(tmp_path: Path) -> None:
    await trio.run_process(
        [sys.executable, dying_import.__file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    outcomes: dict[str, list[bool]] = {"False": [], "True": []}
    for folder in in_order(tmp_path):
        log = await SqliteDisk(folder).open()
        whole = await whole_or_nothing(log)
        await log.sweep()
        assert whole == await whole_or_nothing(log)
        await log.aclose()
        if not whole:
            assert filled(folder) == set(), f"{folder.name} has left something"
        outcomes[folder.name.split()[0]].append(whole)
    writes = len(outcomes["False"]) - 1
    assert writes > 6
    assert outcomes == {"False": [False] * writes + [True], "True": [False] * (writes - 1) + [True, True]}


def in_order(folder: Path) -> list[Path]:
    """By the number of the write at which it ended."""
    return sorted(folder.iterdir(), key=lambda life: int(life.name.split()[1]))


async def whole_or_nothing(log: Log) -> bool:
    """Whether it is there."""
    found = await log.outlines(Filter(include_closed=True))
    hits = await log.search("said", limit=500)
    if not found:
        assert (hits, await log.unfinished(), await log.open_sessions()) == ([], [], 0)
        return False
    assert [(row.id, queued) for row, queued in found] == [(2, 0)]
    assert json.loads((await exported(log, 2))[0]) == with_ids(as_text(large()), [1, 2])
    assert len(hits) == 2 * TURNS
    return True


def filled(folder: Path) -> set[str]:
    """The tables that anything is in, but for the counters."""
    db = apsw.Connection(SqliteDisk(folder).path)
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    ours = {name for name in tables if not name.startswith(("said_", "sqlite_"))} - {"counter"}
    found = {name for name in ours if db.execute(f"SELECT EXISTS (SELECT 1 FROM {name})").get}
    db.close()
    return found


class FailingLog(MemoryLog):
    """Its disk is full from the n-th write on."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self._left = writes

    def submit(self, write: Write) -> None:
        self._left -= 1
        self.fail_with = StorageFull("the disk is full") if self._left <= 0 else None
        super().submit(write)


async def test_a_disk_that_is_full_at_any_write_leaves_nothing() -> None:
    for writes in range(1, 100):
        log = FailingLog(writes)
        kind = await kind_of_failure(log)
        if kind is None:
            assert await whole_or_nothing(log)
            assert writes > 6
            return
        assert (kind, await whole_or_nothing(log)) == ("storage_full", False)
        await log.sweep()
        made_nothing(log)
        assert (log.disk.remains, log.disk.outputs, log.importing) == (set(), {}, set())
    pytest.fail("it never succeeded")


async def kind_of_failure(log: Log) -> str | None:
    try:
        await imported(log, as_text(large()))
    except Problem as problem:
        return problem.kind
    return None


def made_nothing(log: MemoryLog) -> None:
    """The twin has a place for a session that a refused write was for; nothing is in it."""
    for kept in log.disk.sessions.values():
        assert (kept.outline, kept.rows, kept.outputs) == (None, [], set())


class CancellingLog(MemoryLog):
    """Its third write cancels whoever asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = trio.CancelScope()
        self._writes = 0

    def submit(self, write: Write) -> None:
        self._writes += 1
        if self._writes == 3:
            self.scope.cancel()
        super().submit(write)


async def test_one_that_is_cancelled_stops_and_is_swept() -> None:
    log = CancellingLog()
    with log.scope:
        await imported(log, as_text(large()))
    assert log.scope.cancelled_caught
    assert log.importing == set()
    assert not await whole_or_nothing(log)
    assert (await log.sweep()).events > 0
    assert not await whole_or_nothing(log)
    assert (log.disk.remains, log.disk.sessions) == (set(), {})


async def test_a_sweep_beside_it_takes_nothing_of_it(disk: LogDisk) -> None:
    log = await disk.open()
    swept = 0

    async def sweep() -> None:
        nonlocal swept
        while True:
            taken = await log.sweep()
            swept += taken.events + taken.outputs
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        await imported(log, as_text(large()))
        nursery.cancel_scope.cancel()
    assert (await whole_or_nothing(log), swept) == (True, 0)
    await log.aclose()
