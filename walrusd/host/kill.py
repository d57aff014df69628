"""Kills a started process group, or processes found in /proc; never a later process that reuses the same pid."""

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from walrus_protocol.events import ProcessGroupId
from walrusd.host.procfs import ProcInfo, read_proc

MAX_PASSES = 50
"""Maximum number of scans of /proc; each finds only the processes forked during the scan before it."""


class ProcessGroup:
    """The process group of one child. Any thread may kill it; only the spawner's thread reaps its leader.

    Until the leader is reaped, its pid cannot be reused, however long ago it has exited.
    """

    def __init__(self, leader: subprocess.Popen[bytes], process: ProcessGroupId) -> None:
        self.process = process
        self.released = False
        """True if no caller needs the leader's exit status any longer, so that it may be reaped."""
        self._leader = leader
        self._reap_lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self.process.pgid

    def kill(self) -> None:
        """Sends SIGKILL to the whole group at once; no member can escape the kernel's signal by forking."""
        with self._reap_lock, suppress(ProcessLookupError, PermissionError):
            if self._leader.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)

    def kill_session(self, list_processes: Callable[[], Iterable[ProcInfo]]) -> None:
        """Also send SIGKILL to processes that a shell has put into other groups. Runs on the spawner's thread."""
        if self._leader.returncode is None:
            kill_all(lambda: [process for process in list_processes() if process.sid == self.pid])

    def reap(self) -> bool:
        """Reaps the leader if it has exited, and returns whether it has. Runs on the spawner's thread."""
        with self._reap_lock:
            return self._leader.poll() is not None


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
