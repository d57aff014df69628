"""What was started: a process and all that stays in its group and its session, to be ended as one."""

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
    """Any thread may kill it, the spawner's alone reaps it.

    Until it is reaped its number is nobody else's, however long ago its leader has ended.
    """

    def __init__(self, leader: subprocess.Popen[bytes], process: ProcessGroupId) -> None:
        self.process = process
        self.released = False
        """Nobody asks for its leader's end any more: it may be reaped."""
        self._leader = leader
        self._reap_lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self.process.pgid

    def kill(self) -> None:
        """SIGKILL to the whole group at once; the kernel lets no member fork itself out of that."""
        with self._reap_lock, suppress(ProcessLookupError, PermissionError):
            if self._leader.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)

    def kill_session(self, list_processes: Callable[[], Iterable[ProcInfo]]) -> None:
        """SIGKILL also to what a shell has put into groups of their own. On the spawner's thread."""
        if self._leader.returncode is None:
            kill_all(lambda: [seen for seen in list_processes() if seen.sid == self.pid])

    def reap(self) -> bool:
        """Whether its leader has ended; then the kernel keeps nothing of it any more. On the spawner's thread."""
        with self._reap_lock:
            return self._leader.poll() is not None
