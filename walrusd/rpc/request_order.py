"""The order in which requests take effect: trio's tasks have none of their own."""

from typing import Self

import trio


class OrderTicket:
    """A request's place behind those of its connection that are for the same session and were sent before it."""

    __slots__ = ("previous", "released")

    def __init__(self, previous: Self | None = None) -> None:
        self.previous = previous
        self.released = trio.Event()

    async def wait_previous(self) -> None:
        """Wait until all before it have left: one that was cancelled may have, from behind others that have not."""
        while self.previous:
            await self.previous.released.wait()
            self.previous = self.previous.previous

    def release(self) -> None:
        """What has to happen in order has happened, or never will."""
        self.released.set()

    @property
    def is_blocking(self) -> bool:
        """Whether one that comes behind it would have to wait."""
        place: OrderTicket | None = self
        while place and place.released.is_set():
            place = place.previous
        return place is not None
