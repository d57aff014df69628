"""The to-do list of an agent, which its heartbeat shows to it."""

import os
import stat
from pathlib import Path

import trio

from walrusd.schedule.heartbeat_prompt import PendingWork

MAX_TODO_BYTES = 16 * 1024
"""Maximum bytes of a to-do list: some hundred lines, more than an agent gets done in one turn."""


class TodoUnreadable(Exception):
    """A list cannot be read. The text goes into the ledger, and the agent is woken regardless."""


async def read_todo_file(folder: str, agent: str) -> PendingWork | None:
    """Returns the list in NAME.todo of the folder, or None if it is empty. Raises TodoUnreadable.

    walrusd only reads the file and removes no lines.
    """
    path = Path(folder, f"{agent}.todo")
    try:
        # The thread is abandoned if the tick is cancelled: it only reads, and the folder may be on a slow network.
        data = await trio.to_thread.run_sync(_read_head, path, abandon_on_cancel=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TodoUnreadable(f"{path} cannot be read: {error.strerror}") from error
    text = data[:MAX_TODO_BYTES].decode(errors="replace").strip()
    if not text:
        return None
    if len(data) > MAX_TODO_BYTES:
        text += f"\n[Truncated: these are the first {MAX_TODO_BYTES:,} bytes.]"
    return PendingWork(f"Things to do, from {path}:", text)


def _read_head(path: Path) -> bytes:
    """Reads MAX_TODO_BYTES of a regular file, and one more byte if there is one. Raises OSError."""
    # Opening a pipe would wait for its writer, and a device may have no end.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "it is not a regular file")
        return opened.read(MAX_TODO_BYTES + 1)
