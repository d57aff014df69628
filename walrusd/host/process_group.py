"""A started process with all members of its group and session, which are killed together."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from walrus_protocol.events import ProcessGroupId
from walrusd.host.kill import kill_all
from walrusd.host.procfs import ProcInfo


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
