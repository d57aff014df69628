"""SIGKILL to processes that were found in /proc: to these and to none that was given their number since."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from walrusd.host.procfs import ProcInfo, read_proc

MAX_PASSES = 50
"""Looks at /proc before giving up: each finds only what was forked during the one before."""


def kill(process: ProcInfo) -> None:
    """Without effect on a process that has gone, or that is another's by now."""
    with suppress(OSError), _open_pidfd(process) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def kill_all(find: Callable[[], Iterable[ProcInfo]]) -> list[ProcInfo]:
    """Kill all who are found, until nobody is found who was not killed. Does not wait for their end.

    A process that has been sent SIGKILL forks no more, so each pass leaves fewer to find.
    """
    killed: dict[tuple[int, int], ProcInfo] = {}
    for _ in range(MAX_PASSES):
        found = [seen for seen in find() if not seen.has_exited and (seen.pid, seen.start) not in killed]
        if not found:
            break
        for seen in found:
            kill(seen)
            killed[seen.pid, seen.start] = seen
    return list(killed.values())


def wait_exited(processes: Iterable[ProcInfo], within_s: float) -> bool:
    """Block until all have ended; False when the time is over."""
    deadline = time.monotonic() + within_s
    return all(_wait_exit(seen, deadline) for seen in processes)


def _wait_exit(process: ProcInfo, deadline: float) -> bool:
    try:
        with _open_pidfd(process) as pidfd:
            end = select.poll()
            end.register(pidfd, select.POLLIN)
            return bool(end.poll(max(0, deadline - time.monotonic()) * 1000))
    except OSError as error:
        return isinstance(error, ProcessLookupError)


@contextmanager
def _open_pidfd(process: ProcInfo) -> Iterator[int]:
    """A pidfd of this very process. Raises ProcessLookupError where it has gone."""
    pidfd = os.pidfd_open(process.pid)
    try:
        now = read_proc(process.pid)
        if now is None or now.start != process.start:
            raise ProcessLookupError
        yield pidfd
    finally:
        os.close(pidfd)
