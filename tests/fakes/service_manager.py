"""A service manager of the test's own: the socket it is notified on, and the shim that hands a socket over.

with ServiceManager(tmp_path) as manager, manager.keeps(home.socket) as listener:
    with home.walrusd(by=manager.hands_over(listener), environ=manager.environ(watchdog_s=0.2)):
        manager.wait_for("READY=1")
"""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.home import MAX_WAIT_S

_SHIM = """
import os, sys
given = int(sys.argv[1])
if given != 3:
    os.dup2(given, 3)
    os.close(given)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="walrusd.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


class FakeServiceManager:
    def __init__(self, folder: Path, name: str = "notify", *, abstract: bool = False) -> None:
        self.address = f"@{folder}/{name}" if abstract else f"{folder}/{name}"
        self.notifications: list[str] = []
        """All that has been read so far, a line each."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address.replace("@", "\0", 1))
        self._socket.settimeout(MAX_WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def environ(self, watchdog_s: float | None = None) -> dict[str, str]:
        """What it gives a service beside the rest."""
        timed = {} if watchdog_s is None else {"WATCHDOG_USEC": str(round(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": self.address, **timed}

    def wait_for(self, line: str, times: int = 1) -> list[str]:
        """All lines up to the one that begins so, as often; they are not waited for again."""
        since = len(self.notifications)
        while sum(said.startswith(line) for said in self.notifications[since:]) < times:
            self.notifications += self._socket.recv(4096).decode().splitlines()
        return self.notifications[since:]

    def read_pending(self) -> list[str]:
        """The messages that have come and were not read yet, each whole."""
        found = []
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode())
        self._socket.settimeout(MAX_WAIT_S)
        return found

    @contextlib.contextmanager
    def listen(self, path: Path) -> Iterator[socket.socket]:
        """A socket unit: it listens whether anybody accepts or not."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            os.chmod(path, 0o600)
            listener.listen()
            os.set_inheritable(listener.fileno(), True)
            yield listener
        path.unlink()

    def socket_activation_command(self, listener: socket.socket) -> list[str]:
        """A command that execs what it is given, as a service with a socket."""
        return [sys.executable, "-c", _SHIM, str(listener.fileno())]
