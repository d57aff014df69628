"""Kills processes that were found in /proc, and never a later process that reuses the same pid."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from walrusd.host.procfs import ProcInfo, read_proc

MAX_PASSES = 50
"""Maximum number of scans of /proc; each finds only the processes forked during the scan before it."""


def kill(process: ProcInfo) -> None:
    """Sends SIGKILL to the process. No effect if it has exited, was replaced or may not be killed."""
    with suppress(OSError), _open_pidfd(process) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def kill_all(find: Callable[[], Iterable[ProcInfo]]) -> list[ProcInfo]:
    """Kills the processes that `find` returns, until it returns no new ones; returns all that were killed.

    Does not wait for their exit. A process that was sent SIGKILL cannot fork, so each pass finds fewer processes.
    """
    killed: dict[tuple[int, int], ProcInfo] = {}
    for _ in range(MAX_PASSES):
        found = [process for process in find() if not process.has_exited and (process.pid, process.start) not in killed]
        if not found:
            break
        for process in found:
            kill(process)
            killed[process.pid, process.start] = process
    return list(killed.values())


def wait_exited(processes: Iterable[ProcInfo], within_s: float) -> bool:
    """Blocks until all processes have exited; returns False if that takes longer than `within_s` seconds."""
    deadline = time.monotonic() + within_s
    return all(_wait_exit(process, deadline) for process in processes)


def _wait_exit(process: ProcInfo, deadline: float) -> bool:
    try:
        with _open_pidfd(process) as pidfd:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            return bool(poller.poll(max(0, deadline - time.monotonic()) * 1000))
    except OSError as error:
        return isinstance(error, ProcessLookupError)


@contextmanager
def _open_pidfd(process: ProcInfo) -> Iterator[int]:
    """Opens a pidfd of exactly this process. Raises ProcessLookupError if it has exited."""
    pidfd = os.pidfd_open(process.pid)
    try:
        current = read_proc(process.pid)
        if current is None or current.start != process.start:
            raise ProcessLookupError
        yield pidfd
    finally:
        os.close(pidfd)
