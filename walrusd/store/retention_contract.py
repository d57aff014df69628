"""The part of a store's contract that is about room: how much there is, and what is thrown away to make some."""

from typing import Literal, Protocol

from msgspec import Struct


class SpaceUsage(Struct, frozen=True, kw_only=True):
    """`used_bytes` is what has something in it; `free_bytes` waits in the database to be used again."""

    used_bytes: int
    free_bytes: int


ClosedCursor = tuple[float, int]
"""Of a closed session among those: when it was closed, and its id."""
CURSOR_START: ClosedCursor = (float("-inf"), 0)
"""Before all of them."""


class ClosedSession(Struct, frozen=True, kw_only=True):
    """A session that was closed. `events`, and their `bytes`: those that would go with it, for no fork reads them."""

    session: int
    closed_at: float
    turns: int
    events: int
    bytes: int

    @property
    def cursor(self) -> ClosedCursor:
        return self.closed_at, self.session


class OutputRef(Struct, frozen=True, kw_only=True):
    """An output that a session has. `bytes`: what it takes, 0 where the same output was told of before."""

    session: int
    ref: str
    bytes: int


class SweepStats(Struct, frozen=True):
    """What was thrown away."""

    events: int
    outputs: int


GROWTH_BYTES = 4 * 1024 * 1024
"""Bytes written after which it is worth looking at the room there is."""


class RetentionStore(Protocol):
    @property
    def importing_sessions(self) -> set[int]:
        """Sessions that have rows and are not listed yet, by whoever writes them: `sweep` leaves these."""

    async def space_usage(self) -> SpaceUsage:
        """How much of the database is used, and how much is free in it."""

    async def wait_growth(self) -> None:
        """Return when GROWTH bytes were written since it returned last. It wakes nobody up where nothing is written."""

    async def closed_sessions(
        self, before: float, *, after: ClosedCursor = CURSOR_START, target_bytes: int, limit: int
    ) -> list[ClosedSession]:
        """Sessions closed before then, the oldest first, from the one after `after` on: until they make up `enough`
        bytes, and at most so many.
        """

    async def output_refs(self, scope: Literal["closed", "all"], *, target_bytes: int, limit: int) -> list[OutputRef]:
        """Whole outputs and who has them, oldest first: those that closed sessions alone have, or all. As `closed`."""

    async def unlisted_sessions(self) -> list[int]:
        """Sessions to be swept that were never listed, where a chain will ask who said that they may go."""

    async def sweep(self) -> SweepStats:
        """Throw away what nobody can read any more, and give what is free back to the file system.

        An event stays as long as its session is listed, or one that is listed (or that has such a one behind it)
        goes on from there. It is done in small pieces, each whole or not at all, between the writes of others; where
        it is cut off, the next call goes on. Raises StorageFailed.
        """
