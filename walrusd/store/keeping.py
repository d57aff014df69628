"""The part of a store's contract that is about room: how much there is, and what is thrown away to make some."""

from typing import Literal, Protocol

from msgspec import Struct


class Room(Struct, frozen=True, kw_only=True):
    """`used_bytes` is what has something in it; `free_bytes` waits in the database to be used again."""

    used_bytes: int
    free_bytes: int


Place = tuple[float, int]
"""Of a closed session among those: when it was closed, and its id."""
FIRST: Place = (float("-inf"), 0)
"""Before all of them."""


class Closed(Struct, frozen=True, kw_only=True):
    """A session that was closed. `events`, and their `bytes`: those that would go with it, for no fork reads them."""

    session: int
    closed_at: float
    turns: int
    events: int
    bytes: int

    @property
    def place(self) -> Place:
        return self.closed_at, self.session


class Claim(Struct, frozen=True, kw_only=True):
    """An output that a session has. `bytes`: what it takes, 0 where the same output was told of before."""

    session: int
    ref: str
    bytes: int


class Swept(Struct, frozen=True):
    """What was thrown away."""

    events: int
    outputs: int


GROWTH = 4 * 1024 * 1024
"""Bytes written after which it is worth looking at the room there is."""


class Keeping(Protocol):
    @property
    def importing(self) -> set[int]:
        """Sessions that have rows and are not listed yet, by whoever writes them: `sweep` leaves these."""

    async def room(self) -> Room:
        """How much of the database is used, and how much is free in it."""

    async def grown(self) -> None:
        """Return when GROWTH bytes were written since it returned last. It wakes nobody up where nothing is written."""

    async def closed(self, before: float, *, after: Place = FIRST, enough: int, most: int) -> list[Closed]:
        """Sessions closed before then, the oldest first, from the one after `after` on: until they make up `enough`
        bytes, and at most so many.
        """

    async def outputs(self, of: Literal["closed", "all"], *, enough: int, most: int) -> list[Claim]:
        """Whole outputs and who has them, oldest first: those that closed sessions alone have, or all. As `closed`."""

    async def unnamed(self) -> list[int]:
        """Sessions to be swept that were never listed, where a chain will ask who said that they may go."""

    async def sweep(self) -> Swept:
        """Throw away what nobody can read any more, and give what is free back to the file system.

        An event stays as long as its session is listed, or one that is listed (or that has such a one behind it)
        goes on from there. It is done in small pieces, each whole or not at all, between the writes of others; where
        it is cut off, the next call goes on. Raises StorageFailed.
        """
