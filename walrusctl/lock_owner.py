"""Finds the walrusd that runs on a home by its lock file, even if that walrusd does not answer."""

import fcntl
import os
from typing import NamedTuple


class LockOwner(NamedTuple):
    """The process that holds the lock; `pid` is 0 and `socket` empty if not written yet."""

    pid: int
    socket: str


def find_lock_owner(lock: str) -> LockOwner | None:
    """Returns the walrusd that holds the lock; None if there is none or the file is unreadable.

    The test takes the lock itself, shared and for microseconds; a walrusd that starts at that moment tries again.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, _, socket = os.pread(descriptor, 4096, 0).decode(errors="replace").strip().partition("\n")
        return LockOwner(int(pid) if pid.isdigit() else 0, socket)
    else:
        return None
    finally:
        os.close(descriptor)
