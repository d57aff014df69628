"""An import that is cut off, by a kill or by a disk that fails, has left the whole session or nothing."""

import json
import os
import sys
from pathlib import Path

import apsw
import pytest
import trio

from tests.export_import import crashing_import
from tests.export_import.crashing_import import TURNS, large_document
from tests.fakes.export_documents import encode_document, export_to_text, import_text, with_ids
from tests.fakes.stores import LogDisk, SqliteDisk, disk
from walrus_protocol.problems import Problem
from walrusd.store.contract import Log, SessionFilter, StorageFull, Write
from walrusd.store.memory import MemoryLog

__all__ = ["disk"]


async def test_killed_at_any_write_an_import_leaves_the_whole_session_or_nothing(tmp_path: Path) -> None:
    await trio.run_process(
        [sys.executable, crashing_import.__file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    outcomes: dict[str, list[bool]] = {"False": [], "True": []}
    for folder in runs_by_write(tmp_path):
        log = await SqliteDisk(folder).open()
        whole = await is_whole(log)
        await log.sweep()
        assert whole == await is_whole(log)
        await log.aclose()
        if not whole:
            assert nonempty_tables(folder) == set(), f"{folder.name} has left something"
        outcomes[folder.name.split()[0]].append(whole)
    writes = len(outcomes["False"]) - 1
    assert writes > 6
    assert outcomes == {"False": [False] * writes + [True], "True": [False] * (writes - 1) + [True, True]}


def runs_by_write(folder: Path) -> list[Path]:
    """By the number of the write at which it ended."""
    return sorted(folder.iterdir(), key=lambda life: int(life.name.split()[1]))


async def is_whole(log: Log) -> bool:
    """Whether it is there."""
    found = await log.list_sessions(SessionFilter(include_closed=True))
    hits = await log.search("said", limit=500)
    if not found:
        assert (hits, await log.unfinished_sessions(), await log.open_session_count()) == ([], [], 0)
        return False
    assert [(row.id, queued) for row, queued in found] == [(2, 0)]
    assert json.loads((await export_to_text(log, 2))[0]) == with_ids(encode_document(large_document()), [1, 2])
    assert len(hits) == 2 * TURNS
    return True


def nonempty_tables(folder: Path) -> set[str]:
    """The tables that anything is in, but for the counters."""
    db = apsw.Connection(SqliteDisk(folder).path)
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    ours = {name for name in tables if not name.startswith(("said_", "sqlite_"))} - {"counter"}
    found = {name for name in ours if db.execute(f"SELECT EXISTS (SELECT 1 FROM {name})").get}
    db.close()
    return found


class FullDiskLog(MemoryLog):
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
        log = FullDiskLog(writes)
        kind = await import_problem_kind(log)
        if kind is None:
            assert await is_whole(log)
            assert writes > 6
            return
        assert (kind, await is_whole(log)) == ("storage_full", False)
        await log.sweep()
        check_empty(log)
        assert (log.tables.unlisted_sessions, log.tables.outputs, log.importing_sessions) == (set(), {}, set())
    pytest.fail("it never succeeded")


async def import_problem_kind(log: Log) -> str | None:
    try:
        await import_text(log, encode_document(large_document()))
    except Problem as problem:
        return problem.kind
    return None


def check_empty(log: MemoryLog) -> None:
    """The twin has a place for a session that a refused write was for; nothing is in it."""
    for kept in log.tables.sessions.values():
        assert (kept.session_state, kept.rows, kept.outputs) == (None, [], set())


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


async def test_a_cancelled_import_stops_and_is_swept() -> None:
    log = CancellingLog()
    with log.scope:
        await import_text(log, encode_document(large_document()))
    assert log.scope.cancelled_caught
    assert log.importing_sessions == set()
    assert not await is_whole(log)
    assert (await log.sweep()).events > 0
    assert not await is_whole(log)
    assert (log.tables.unlisted_sessions, log.tables.sessions) == (set(), {})


async def test_a_concurrent_sweep_removes_nothing_of_an_import(disk: LogDisk) -> None:
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
        await import_text(log, encode_document(large_document()))
        nursery.cancel_scope.cancel()
    assert (await is_whole(log), swept) == (True, 0)
    await log.aclose()
