"""An interrupted import leaves the complete session or nothing.

It is interrupted by a kill, a full disk or a cancellation.
"""

import json
import os
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import trio

from tests.export_import import crashing_import
from tests.export_import.crashing_import import TURNS, large_document
from tests.fakes.export_documents import encode_document, export_to_text, import_text, with_ids
from tests.fakes.memory_log import MemoryLog
from tests.fakes.stepped_log import SteppedMemoryLog, fail_from
from tests.fakes.stores import LogDisk, SqliteDisk, disk
from walrus_protocol.problems import Problem
from walrusd.store.contract import Log, Write
from walrusd.store.errors import StorageFull
from walrusd.store.tables.session import SessionFilter, read_open_session_count, read_unfinished_sessions

__all__ = ["disk"]


async def test_killed_at_any_write_an_import_leaves_the_whole_session_or_nothing(tmp_path: Path) -> None:
    await trio.run_process(
        [sys.executable, crashing_import.__file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    outcomes: dict[str, list[bool]] = {"False": [], "True": []}
    for folder in runs_by_write(tmp_path):
        log = await SqliteDisk(folder).open()
        complete = await is_complete(log)
        await log.sweep()
        assert complete == await is_complete(log)
        await log.aclose()
        if not complete:
            with closing(apsw.Connection(SqliteDisk(folder).path)) as db:
                assert nonempty_tables(db) == set(), f"{folder.name} has left rows"
        outcomes[folder.name.split()[0]].append(complete)
    writes = len(outcomes["False"]) - 1
    assert writes > 6
    assert outcomes == {"False": [False] * writes + [True], "True": [False] * (writes - 1) + [True, True]}


def runs_by_write(folder: Path) -> list[Path]:
    """Returns the folders of the runs, sorted by the number of the write at which each was killed."""
    return sorted(folder.iterdir(), key=lambda run: int(run.name.split()[1]))


async def is_complete(log: Log) -> bool:
    """Returns True if the session is there and complete.

    Asserts that a session is complete, or that nothing of it is listed.
    """
    found = await log.list_sessions(SessionFilter(include_closed=True))
    hits = await log.search("message", limit=500)
    if not found:
        assert (hits, await log.read(read_unfinished_sessions), await log.read(read_open_session_count)) == ([], [], 0)
        return False
    assert [(row.id, queued) for row, queued in found] == [(2, 0)]
    assert json.loads((await export_to_text(log, 2))[0]) == with_ids(encode_document(large_document()), [1, 2])
    assert len(hits) == 2 * TURNS
    return True


def nonempty_tables(db: apsw.Connection) -> set[str]:
    """Returns the names of the tables with rows, except the counters."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    table_names = {name for name in tables if not name.startswith(("said_", "sqlite_"))} - {"counter"}
    return {name for name in table_names if db.execute(f"SELECT EXISTS (SELECT 1 FROM {name})").get}


async def test_a_disk_that_is_full_at_any_write_leaves_nothing() -> None:
    for writes in range(1, 100):
        log = SteppedMemoryLog()
        log.on_step = fail_from(writes, StorageFull("the disk is full"))
        kind = await import_problem_kind(log)
        if kind is None:
            assert await is_complete(log)
            assert writes > 6
            return
        assert (kind, await is_complete(log)) == ("storage_full", False)
        await log.sweep()
        assert (nonempty_tables(log.db), log.importing_sessions) == (set(), set())
    pytest.fail("the import never succeeded")


async def import_problem_kind(log: Log) -> str | None:
    try:
        await import_text(log, encode_document(large_document()))
    except Problem as problem:
        return problem.kind
    return None


class CancellingLog(MemoryLog):
    """A store that cancels `scope` at its third write."""

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
    assert not await is_complete(log)
    assert (await log.sweep()).events > 0
    assert not await is_complete(log)
    assert nonempty_tables(log.db) == set()


async def test_a_concurrent_sweep_removes_nothing_of_an_import(disk: LogDisk) -> None:
    log = await disk.open()
    swept = 0

    async def sweep() -> None:
        nonlocal swept
        while True:
            stats = await log.sweep()
            swept += stats.events + stats.outputs
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        await import_text(log, encode_document(large_document()))
        nursery.cancel_scope.cancel()
    assert (await is_complete(log), swept) == (True, 0)
    await log.aclose()
