"""The part of the store's interface for retention: space usage, deletion candidates, sweep."""

from typing import Literal, Protocol

from msgspec import Struct


class SpaceUsage(Struct, frozen=True, kw_only=True):
    """Bytes of pages that hold data, and bytes of free pages in the database file."""

    used_bytes: int
    free_bytes: int


Cursor = tuple[float, int, str]
"""Position in a list of candidates: a closing time or a row number, a session, and the ref of an output or ""."""
CURSOR_START: Cursor = (float("-inf"), 0, "")
"""The position before all candidates."""


class ClosedSession(Struct, frozen=True, kw_only=True):
    """A closed session.

    `events` and `bytes` count only the events that no fork reads: deleting the session frees them. `last_outputs` and
    `last_output_bytes` count the outputs that are freed with it if all sessions closed before it are deleted, too.
    """

    session: int
    closed_at: float
    turns: int
    events: int
    bytes: int
    last_outputs: int = 0
    last_output_bytes: int = 0

    @property
    def cursor(self) -> Cursor:
        return self.closed_at, self.session, ""


class OutputRef(Struct, frozen=True, kw_only=True):
    """An output that a session has. `bytes` is its size, or 0 if a later session in the list has the same output."""

    session: int
    ref: str
    bytes: int
    position: float

    @property
    def cursor(self) -> Cursor:
        return self.position, self.session, self.ref


Candidate = ClosedSession | OutputRef


class SweepStats(Struct, frozen=True):
    """Numbers of the events and outputs that a sweep deleted."""

    events: int
    outputs: int


GROWTH_BYTES = 4 * 1024 * 1024
"""Bytes written after which retention should check the space again."""


class RetentionStore(Protocol):
    """The methods of a store that retention uses."""

    @property
    def importing_sessions(self) -> set[int]:
        """Sessions that an import is writing and that are not listed yet.

        The importer maintains the set; `sweep` does not touch these sessions.
        """

    async def space_usage(self) -> SpaceUsage:
        """Returns the used and the free bytes of the database."""

    async def wait_growth(self) -> None:
        """Returns when GROWTH_BYTES were written since its last return.

        It never wakes up if nothing is written.
        """

    async def closed_sessions(self, before: float, *, after: Cursor = CURSOR_START, limit: int) -> list[ClosedSession]:
        """Returns sessions closed before that time and after the cursor `after`, the oldest first."""

    async def output_refs(
        self, scope: Literal["closed", "open"], *, after: Cursor = CURSOR_START, limit: int
    ) -> list[OutputRef]:
        """Returns outputs with the sessions that have them, oldest first.

        They are either those that only closed sessions have, or those that an open session has.
        """

    async def unlisted_sessions(self) -> list[int]:
        """Returns sessions that `sweep` will delete and that were never listed, if there is a hash chain.

        A daemon event must name them first: the chain is verified by it.
        """

    async def sweep(self) -> SweepStats:
        """Deletes data that can no longer be read, and returns free space to the file system.

        An event stays while its session is listed, or while a listed session inherits it, directly or through other
        forks. The work is done in small transactions between other writes. If it is interrupted, the next call
        continues. Raises StorageFailed.
        """
