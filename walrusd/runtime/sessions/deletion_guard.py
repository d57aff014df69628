"""Guards deletion of sessions.

A session in use cannot be deleted, and a lookup during deletion waits for it to finish.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


class DeletionGuard:
    """The sessions that are pinned, and those that are being deleted. To be used on trio's thread only."""

    def __init__(self) -> None:
        self._deleting: dict[int, trio.Event] = {}
        self._pins: Counter[int] = Counter()

    def is_deleting(self, session: int) -> bool:
        return session in self._deleting

    async def wait_deleted(self, session: int) -> None:
        """Waits until no deletion of the session is under way; the session may not exist any more then."""
        while (finished := self._deleting.get(session)) is not None:
            await finished.wait()

    @asynccontextmanager
    async def pin(self, session: int) -> AsyncIterator[None]:
        """Prevents deletion of the session within the block. If a deletion is under way, waits for it first."""
        await self.wait_deleted(session)
        self._pins[session] += 1
        try:
            yield
        finally:
            self._pins -= Counter({session: 1})

    @contextmanager
    def try_delete(self, candidates: Iterable[int], evict_if_unused: Callable[[int], bool]) -> Iterator[list[int]]:
        """Yields the candidates that may be deleted within the block: neither pinned nor in use.

        `evict_if_unused` removes a session from memory, or returns False if it is in use.
        """
        chosen = [session for session in candidates if not self._pins[session] and evict_if_unused(session)]
        finished = trio.Event()
        self._deleting.update(dict.fromkeys(chosen, finished))
        try:
            yield chosen
        finally:
            for session in chosen:
                del self._deleting[session]
            finished.set()
