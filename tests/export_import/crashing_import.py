"""A process that imports a document and kills itself at the n-th write, for every n until it survives: before the
write, and when it is durable and nobody knows. Each has a folder of its own in that of the argument, with its database.
"""

import os
import signal
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
from walrusd.store.contract import Write
from walrusd.store.sqlite import SqliteLog

TURNS = 100
"""Of three events each: more than one transaction of the session's own."""


def large_document() -> ExportDict:
    """With an ancestor, an output and keys."""
    older = SessionLogBuilder(1)
    older.add_tool_turn("what is there?")
    younger = older.fork(2)
    for number in range(TURNS):
        younger.add_turn(f"said {number}", key=f"key {number}")
    return build_document(older, younger, outputs=[LONG_OUTPUT])


class KilledImportLog(SqliteLog):
    kill_at_write = 0
    """The number of the write that ends the process."""
    kill_after_commit = False

    def submit(self, write: Write) -> None:
        self.kill_at_write -= 1
        if self.kill_at_write == 0:
            if not self.kill_after_commit:
                os.kill(os.getpid(), signal.SIGKILL)
            write.committed = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        super().submit(write)


async def run_import(folder: Path, kill_at_write: int, *, after_commit: bool) -> None:
    log = await KilledImportLog.open(str(folder / "walrus.db"), durability="normal")
    assert isinstance(log, KilledImportLog)
    log.kill_at_write, log.kill_after_commit = kill_at_write, after_commit
    await import_text(log, encode_document(large_document()))
    await log.aclose()


def survives(folder: Path, kill_at_write: int, *, after_commit: bool) -> bool:
    """Forked for speed: the imports are paid once. Nothing runs in this process that a fork could break."""
    folder.mkdir()
    child = os.fork()
    if not child:
        trio.run(lambda: run_import(folder, kill_at_write, after_commit=after_commit))
        os._exit(0)
    return not os.WIFSIGNALED(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for after in (False, True):
        made = (survives(Path(sys.argv[1]) / f"{after} {dies}", dies, after_commit=after) for dies in count(1))
        while not next(made):
            pass
