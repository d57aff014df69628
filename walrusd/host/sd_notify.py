"""What walrusd tells the service manager that started it: sd_notify(3), in the few lines that it takes.

Without a manager nothing is said. Nothing here raises or waits: a daemon does not depend on who watches it.
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
EXTEND_BY_S = 30.0
"""Six chances to say it again before the manager gives a start up."""
MAX_START_S = 3600.0
"""A start that takes longer hangs, and may be ended: migrating ten million events takes minutes."""


class Notify:
    """The datagram socket to the manager; with no address it is mute."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        """How long the manager waits for a sign of life; None: for ever."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket:
            self._socket.settimeout(0)
        self._unsent_state = ""
        self._failure_logged = False

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Self:
        """As the manager asks for it, and taken out of the environment: no child is to speak in walrusd's name."""
        address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        meant = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
        # Of the other address families that systemd knows (vsock) none is a user's.
        return cls(address if address.startswith(("/", "@")) else "", int(usec) / 1e6 if meant else None)

    def ready(self) -> None:
        """The start, or a reload, is over."""
        self._send_state("READY=1")

    def reloading(self) -> None:
        # systemd tells by this time which of several reloads is meant.
        self._send_state(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send_state("STOPPING=1")

    def status(self, text: str) -> None:
        """A line for people: `systemctl --user status walrusd` shows it."""
        self._send(f"STATUS={' '.join(text.split())}")

    def extend_timeout(self, seconds: float) -> None:
        """The start, the reload or the stop that is under way may take so long from now on."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def ping_watchdog(self) -> None:
        """The sign of life that the watchdog waits for."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def _send_state(self, state: str) -> None:
        # Where the manager's socket is full a state is said with whatever is said next: a READY=1 that never came
        # would have walrusd ended at the end of its start.
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
                log.debug("the service manager cannot be told", said=message, reason=error.strerror)
            self._failure_logged = True
            return False
        self._unsent_state = ""
        return True


@asynccontextmanager
async def extending_timeout(notify: Notify) -> AsyncIterator[None]:
    """Have the manager wait for as long as what stands in this block is at work, up to LONGEST_START_S."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_extend_repeatedly, notify)
        yield
        nursery.cancel_scope.cancel()


async def _extend_repeatedly(notify: Notify) -> None:
    with trio.move_on_after(MAX_START_S):
        while True:
            notify.extend_timeout(EXTEND_BY_S)
            await trio.sleep(EXTEND_EVERY_S)
