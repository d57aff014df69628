"""A process that imports a document and kills itself at the n-th write, for every n until it survives: before the
write, and when it is durable and nobody knows. Each has a folder of its own in that of the argument, with its database.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path

import trio

from tests.fakes.documents import LONG, Chat, Document, as_text, document, imported
from walrusd.store.log import Write
from walrusd.store.sqlite import SqliteLog

TURNS = 100
"""Of three events each: more than one transaction of the session's own."""


def large() -> Document:
    """With an ancestor, an output and keys."""
    older = Chat(1)
    older.looks("what is there?")
    younger = older.fork(2)
    for number in range(TURNS):
        younger.turn(f"said {number}", key=f"key {number}")
    return document(older, younger, outputs=[LONG])


class MortalLog(SqliteLog):
    dies = 0
    """The number of the write that ends the process."""
    after = False

    def submit(self, write: Write) -> None:
        self.dies -= 1
        if self.dies == 0:
            if not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            write.committed = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        super().submit(write)


async def live(folder: Path, dies: int, *, after: bool) -> None:
    log = await MortalLog.open(str(folder / "walrus.db"), durability="normal")
    assert isinstance(log, MortalLog)
    log.dies, log.after = dies, after
    await imported(log, as_text(large()))
    await log.aclose()


def survives(folder: Path, dies: int, *, after: bool) -> bool:
    """Forked for speed: the imports are paid once. Nothing runs in this process that a fork could break."""
    folder.mkdir()
    child = os.fork()
    if not child:
        trio.run(lambda: live(folder, dies, after=after))
        os._exit(0)
    return not os.WIFSIGNALED(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for after in (False, True):
        made = (survives(Path(sys.argv[1]) / f"{after} {dies}", dies, after=after) for dies in count(1))
        while not next(made):
            pass
