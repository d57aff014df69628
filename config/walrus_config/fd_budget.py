"""Computes how many connections fit into a limit of open files, for walrusd and `walrusctl doctor`."""

IDLE_DAEMON_FDS = 40
"""Descriptors reserved for an idle daemon: store, loop, lock, socket, interpreter.

It has 20, and temporary ones.
"""
FDS_PER_TURN = 4
"""Descriptors of a running turn: a provider's connection, or a tool with its pipes."""
MIN_FDS = 48
"""Minimum descriptors to start; with fewer, walrusd would start and fail at its first work."""


def compute_connection_limit(fd_limit: int, wanted: int, turns: int) -> int:
    """Returns how many of the `wanted` connections fit beside this many turns.

    The result is 0 if walrusd itself does not fit.

    If there are too few descriptors, connections and turns are reduced in proportion.
    """
    if fd_limit < MIN_FDS:
        return 0
    available, needed = fd_limit - IDLE_DAEMON_FDS, wanted + FDS_PER_TURN * turns
    return wanted if available >= needed else max(1, wanted * available // needed)
