"""Notifies the service manager that started walrusd, by sd_notify(3).

Without a service manager nothing is sent. Nothing here raises or waits, because the daemon must not depend on its
manager.
"""

import os
import socket
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Self

import structlog
import trio

log = structlog.get_logger("walrusd")

EXTEND_EVERY_S = 5.0
"""Seconds between two messages that extend the timeout."""
EXTEND_BY_S = 30.0
"""Seconds by which a message extends the timeout; the manager gives up after six lost messages."""
MAX_START_S = 3600.0
"""Maximum seconds for which a start is extended; a longer start hangs.

Migrating ten million events takes minutes.
"""


class Notify:
    """The datagram socket to the service manager; without an address it sends nothing."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        """Seconds within which the manager expects the next watchdog message; None if it expects none."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket:
            self._socket.settimeout(0)
        self._unsent_state = ""
        self._failure_logged = False

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Self:
        """Reads the manager's variables and removes them, so that no child can send messages for walrusd."""
        address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        has_watchdog = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
        # systemd also knows vsock addresses; a user's service manager never has one.
        return cls(address if address.startswith(("/", "@")) else "", int(usec) / 1e6 if has_watchdog else None)

    def ready(self) -> None:
        """Reports that the start, or a reload, is complete."""
        self._send_state("READY=1")

    def reloading(self) -> None:
        # The time lets systemd distinguish one reload from another.
        self._send_state(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send_state("STOPPING=1")

    def status(self, text: str) -> None:
        """Sends a line for people; `systemctl --user status walrusd` shows it."""
        self._send(f"STATUS={' '.join(text.split())}")

    def extend_timeout(self, seconds: float) -> None:
        """Allows the current start, reload or stop to take this long, counted from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def ping_watchdog(self) -> None:
        """Sends the message that the manager's watchdog expects."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def _send_state(self, state: str) -> None:
        # If the manager's socket is full, the state is sent with the next message: without a READY=1 the manager would
        # kill walrusd when the start timeout expires.
        self._unsent_state = ""
        if not self._send(state):
            self._unsent_state = f"{state}\n"

    def _send(self, message: str) -> bool:
        if not self._socket:
            return True
        try:
            self._socket.sendto(f"{self._unsent_state}{message}".encode(errors="replace"), self._address)
        except OSError as error:
            if not self._failure_logged:
                log.debug("sd_notify_failed", message=message, reason=error.strerror)
            self._failure_logged = True
            return False
        self._unsent_state = ""
        return True


@asynccontextmanager
async def extending_timeout(notify: Notify) -> AsyncIterator[None]:
    """Keeps extending the manager's timeout while the block runs, for MAX_START_S at most."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_extend_repeatedly, notify)
        yield
        nursery.cancel_scope.cancel()


async def _extend_repeatedly(notify: Notify) -> None:
    with trio.move_on_after(MAX_START_S):
        while True:
            notify.extend_timeout(EXTEND_BY_S)
            await trio.sleep(EXTEND_EVERY_S)
