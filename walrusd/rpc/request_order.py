"""Keeps the order in which requests of a connection take effect, since trio's tasks have none."""

from typing import Self

import trio


class OrderTicket:
    """The place of a request in the order of its connection's requests for the same session or upload."""

    __slots__ = ("previous", "released")

    def __init__(self, previous: Self | None = None) -> None:
        self.previous = previous
        self.released = trio.Event()

    async def wait_previous(self) -> None:
        """Waits until all earlier tickets are released; a cancelled request may release its own out of order."""
        while self.previous:
            await self.previous.released.wait()
            self.previous = self.previous.previous

    def release(self) -> None:
        """Lets later requests continue: the ordered part of this one is done, or will not happen."""
        self.released.set()

    @property
    def is_blocking(self) -> bool:
        """Returns whether a later request would have to wait."""
        ticket: OrderTicket | None = self
        while ticket and ticket.released.is_set():
            ticket = ticket.previous
        return ticket is not None
