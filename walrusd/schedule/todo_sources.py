"""What waits for an agent when it is woken. Each kind of work that can wait is a source; more of them may be added."""

import os
import stat
from pathlib import Path
from typing import Protocol

import trio

from walrusd.schedule.heartbeat_prompt import PendingWork

MAX_TODO_BYTES = 16 * 1024
"""Bytes of a list of things to do: some hundred lines, which is more than an agent gets done in one turn."""


class TodoUnreadable(Exception):
    """A source cannot say what waits; the text is for the ledger. The agent is woken all the same."""


class TodoSource(Protocol):
    async def read_pending(self, agent: str) -> PendingWork | None:
        """What waits for the agent; None where nothing does. Raises Unreadable."""


class TodoFile:
    """The lines of agents/NAME.todo in the home. Whoever writes them takes them away again."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    async def read_pending(self, agent: str) -> PendingWork | None:
        path = self._folder / f"{agent}.todo"
        try:
            # Left to itself where the tick is given up: it only reads, and a folder may be on a slow network.
            data = await trio.to_thread.run_sync(_read_head, path, abandon_on_cancel=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TodoUnreadable(f"{path} cannot be read: {error.strerror}") from error
        text = data[:MAX_TODO_BYTES].decode(errors="replace").strip()
        if not text:
            return None
        if len(data) > MAX_TODO_BYTES:
            text += f"\n[The rest is left out: these are the first {MAX_TODO_BYTES:,} bytes.]"
        return PendingWork(f"Things to do, from {path}:", text)


def _read_head(path: Path) -> bytes:
    """As much of a regular file as is shown, and a byte more where there is more."""
    # Opening a pipe would wait for whoever writes it; a device may have no end.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "it is not a regular file")
        return opened.read(MAX_TODO_BYTES + 1)
