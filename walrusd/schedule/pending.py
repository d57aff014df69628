"""What waits for an agent when it is woken. Each kind of work that can wait is a source; more of them may be added."""

import os
import stat
from pathlib import Path
from typing import Protocol

import trio

from walrusd.schedule.wording import Pending

MOST = 16 * 1024
"""Bytes of a list of things to do: some hundred lines, which is more than an agent gets done in one turn."""


class Unreadable(Exception):
    """A source cannot say what waits; the text is for the ledger. The agent is woken all the same."""


class Source(Protocol):
    async def pending(self, agent: str) -> Pending | None:
        """What waits for the agent; None where nothing does. Raises Unreadable."""


class TodoFile:
    """The lines of agents/NAME.todo in the home. Whoever writes them takes them away again."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    async def pending(self, agent: str) -> Pending | None:
        path = self._folder / f"{agent}.todo"
        try:
            # Left to itself where the tick is given up: it only reads, and a folder may be on a slow network.
            data = await trio.to_thread.run_sync(_head, path, abandon_on_cancel=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unreadable(f"{path} cannot be read: {error.strerror}") from error
        text = data[:MOST].decode(errors="replace").strip()
        if not text:
            return None
        if len(data) > MOST:
            text += f"\n[The rest is left out: these are the first {MOST:,} bytes.]"
        return Pending(f"Things to do, from {path}:", text)


def _head(path: Path) -> bytes:
    """As much of a regular file as is shown, and a byte more where there is more."""
    # Opening a pipe would wait for whoever writes it; a device may have no end.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "it is not a regular file")
        return opened.read(MOST + 1)
