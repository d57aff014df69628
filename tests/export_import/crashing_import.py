"""A process that imports a document and is killed at the n-th write, for every n.

The last run completes. Each n is tried twice: the process is killed before the write, or after the commit but before
the acknowledgement. Each run has its own database in a subfolder of the folder given as the argument.
"""

import os
import sys
from itertools import count
from pathlib import Path

import trio

from tests.fakes.export_documents import (
    LONG_OUTPUT,
    ExportDict,
    SessionLogBuilder,
    build_document,
    encode_document,
    import_text,
)
from tests.fakes.stepped_log import SteppedSqliteLog, kill_at

TURNS = 100
"""Number of turns with three events each: more than one transaction for the session's own events."""


def large_document() -> ExportDict:
    """Returns a document with an ancestor, an output and idempotency keys."""
    older = SessionLogBuilder(1)
    older.add_tool_turn("what is there?")
    younger = older.fork(2)
    for number in range(TURNS):
        younger.add_turn(f"message {number}", key=f"key {number}")
    return build_document(older, younger, outputs=[LONG_OUTPUT])


async def run_import(folder: Path, kill_at_write: int, *, after_commit: bool) -> None:
    log = await SteppedSqliteLog.open(str(folder / "walrus.db"), durability="normal")
    assert isinstance(log, SteppedSqliteLog)
    log.on_step = kill_at(kill_at_write, "durable" if after_commit else "before")
    await import_text(log, encode_document(large_document()))
    await log.aclose()


def survives(folder: Path, kill_at_write: int, *, after_commit: bool) -> bool:
    """Runs the import in a forked child; returns True if the child completes.

    The fork saves loading the modules again. This process has no threads, so forking it is safe.
    """
    folder.mkdir()
    child = os.fork()
    if not child:
        trio.run(lambda: run_import(folder, kill_at_write, after_commit=after_commit))
        os._exit(0)
    return not os.WIFSIGNALED(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for after in (False, True):
        runs = (survives(Path(sys.argv[1]) / f"{after} {at}", at, after_commit=after) for at in count(1))
        while not next(runs):
            pass
