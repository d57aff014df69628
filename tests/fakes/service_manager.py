"""A fake service manager for tests: a notify socket, and a wrapper that passes on a listening socket.

with FakeServiceManager(tmp_path) as manager, manager.listen(home.socket) as listener:
    wrapper = manager.socket_activation_command(listener)
    with home.walrusd(wrapper=wrapper, environ=manager.environ(watchdog_s=0.2)):
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
fd = int(sys.argv[1])
if fd != 3:
    os.dup2(fd, 3)
    os.close(fd)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="walrusd.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


class FakeServiceManager:
    def __init__(self, folder: Path, name: str = "notify", *, abstract: bool = False) -> None:
        self.address = f"@{folder}/{name}" if abstract else f"{folder}/{name}"
        self.notifications: list[str] = []
        """All notification lines that have been read so far."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address.replace("@", "\0", 1))
        self._socket.settimeout(MAX_WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def environ(self, watchdog_s: float | None = None) -> dict[str, str]:
        """Returns the variables that a service manager adds to the environment of a service."""
        watchdog = {} if watchdog_s is None else {"WATCHDOG_USEC": str(round(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": self.address, **watchdog}

    def wait_for(self, line: str, times: int = 1) -> list[str]:
        """Reads notifications until `times` lines begin with `line`; returns all lines read in this call."""
        since = len(self.notifications)
        while sum(notified.startswith(line) for notified in self.notifications[since:]) < times:
            self.notifications += self._socket.recv(4096).decode().splitlines()
        return self.notifications[since:]

    def read_pending(self) -> list[str]:
        """Returns the datagrams that have arrived and were not read yet."""
        found = []
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode())
        self._socket.settimeout(MAX_WAIT_S)
        return found

    @contextlib.contextmanager
    def listen(self, path: Path) -> Iterator[socket.socket]:
        """Listens on `path` like a socket unit, whether a service accepts or not."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            os.chmod(path, 0o600)
            listener.listen()
            os.set_inheritable(listener.fileno(), True)
            yield listener
        path.unlink()

    def socket_activation_command(self, listener: socket.socket) -> list[str]:
        """Returns a command that execs its arguments as a service that inherits the listening socket."""
        return [sys.executable, "-c", _SHIM, str(listener.fileno())]
