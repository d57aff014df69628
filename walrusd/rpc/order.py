"""The order in which requests take effect: trio's tasks have none of their own."""

from typing import Self

import trio


class Place:
    """A request's place behind those of its connection that are for the same session and were sent before it."""

    __slots__ = ("before", "left")

    def __init__(self, before: Self | None = None) -> None:
        self.before = before
        self.left = trio.Event()

    async def reached(self) -> None:
        """Wait until all before it have left: one that was cancelled may have, from behind others that have not."""
        while self.before:
            await self.before.left.wait()
            self.before = self.before.before

    def leave(self) -> None:
        """What has to happen in order has happened, or never will."""
        self.left.set()

    @property
    def holds_up(self) -> bool:
        """Whether one that comes behind it would have to wait."""
        place: Place | None = self
        while place and place.left.is_set():
            place = place.before
        return place is not None
