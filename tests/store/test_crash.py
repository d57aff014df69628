"""Killed before any of its steps on the disk, the log has all that it acknowledged, and every write whole or not at all."""

import os
import sys
from pathlib import Path

import trio

from tests.fakes.stores import SqliteDisk, commit
from tests.store import crashing_writer
from walrusd.store.log import Log, Span


async def test_killed_at_any_step_the_log_keeps_what_it_acknowledged_and_no_half_write(tmp_path: Path) -> None:
    child = await trio.run_process(
        [sys.executable, crashing_writer.__file__, str(tmp_path)],
        capture_stdout=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    survived = int(child.stdout)
    assert survived > 80, "the steps of making the tables, of nine writes and of closing"
    for step in range(1, survived + 1):
        folder = tmp_path / str(step)
        log = await SqliteDisk(folder).open()
        found = [await whole_writes(log, session) for session in range(1, crashing_writer.SESSIONS + 1)]
        for line in await trio.Path(folder / "acknowledged").read_text():
            ...
        await log.aclose()


async def whole_writes(log: Log, session: int) -> int:
    ...
