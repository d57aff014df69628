"""Who has a home, whether its daemon answers or not: what the lock of the home says while it is held."""

import fcntl
import os
from typing import NamedTuple


class LockOwner(NamedTuple):
    """`pid` is 0 and `socket` empty where they are not written yet."""

    pid: int
    socket: str


def find_lock_owner(lock: str) -> LockOwner | None:
    """The walrusd that holds the lock; None where none does, and where this user may not see that.

    Looking takes the lock, shared and for microseconds; a walrusd that starts at that moment tries again.
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
