"""How many connections a limit of open files has room for: the daemon asks for itself, `doctor` for the daemon."""

IDLE_DAEMON_FDS = 40
"""Descriptors of an idle daemon: store, loop, lock, socket, the interpreter's. It has 20; more come and go."""
FDS_PER_TURN = 4
"""A provider's connection, or a tool with its pipes."""
MIN_FDS = 48
"""With fewer it would start, and fail at its first work."""


def compute_connection_limit(fd_limit: int, wanted: int, turns: int) -> int:
    """How many of the `wanted` connections there are descriptors for beside so many turns; 0 where not even walrusd's
    own fit. Where there is too little, connections and turns are cut alike.
    """
    if fd_limit < MIN_FDS:
        return 0
    left, needed = fd_limit - IDLE_DAEMON_FDS, wanted + FDS_PER_TURN * turns
    return wanted if left >= needed else max(1, wanted * left // needed)
