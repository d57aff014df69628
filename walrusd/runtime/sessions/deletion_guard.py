"""Sessions on their way out: who asks for one waits until it is gone, and one that somebody uses does not go."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


class DeletionGuard:
    """All of it belongs to the loop's thread: a session is either being used or being thrown away."""

    def __init__(self) -> None:
        self._deleting: dict[int, trio.Event] = {}
        self._pins: Counter[int] = Counter()

    def is_deleting(self, session: int) -> bool:
        return session in self._deleting

    async def wait_deleted(self, session: int) -> None:
        """Wait while it is being thrown away; it may be gone then."""
        while (gone := self._deleting.get(session)) is not None:
            await gone.wait()

    @asynccontextmanager
    async def pin(self, session: int) -> AsyncIterator[None]:
        """Within, it stays, if it is there at all: who asks while it goes waits until it is gone."""
        await self.wait_deleted(session)
        self._pins[session] += 1
        try:
            yield
        finally:
            self._pins -= Counter({session: 1})

    @contextmanager
    def try_delete(self, candidates: Iterable[int], evict_if_unused: Callable[[int], bool]) -> Iterator[list[int]]:
        """Within, those of them may be thrown away that are at rest, and not needed."""
        chosen = [session for session in candidates if not self._pins[session] and evict_if_unused(session)]
        gone = trio.Event()
        self._deleting.update(dict.fromkeys(chosen, gone))
        try:
            yield chosen
        finally:
            for session in chosen:
                del self._deleting[session]
            gone.set()
