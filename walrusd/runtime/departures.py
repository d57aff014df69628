"""Sessions on their way out: who asks for one waits until it is gone, and one that somebody uses does not go."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


class Departures:
    """All of it belongs to the loop's thread: a session is either being used or being thrown away."""

    def __init__(self) -> None:
        self._going: dict[int, trio.Event] = {}
        self._needed: Counter[int] = Counter()

    def going(self, session: int) -> bool:
        return session in self._going

    async def settled(self, session: int) -> None:
        """Wait while it is being thrown away; it may be gone then."""
        while (gone := self._going.get(session)) is not None:
            await gone.wait()

    @asynccontextmanager
    async def needed(self, session: int) -> AsyncIterator[None]:
        """Within, it stays, if it is there at all: who asks while it goes waits until it is gone."""
        await self.settled(session)
        self._needed[session] += 1
        try:
            yield
        finally:
            self._needed -= Counter({session: 1})

    @contextmanager
    def leaving(self, wanted: Iterable[int], at_rest: Callable[[int], bool]) -> Iterator[list[int]]:
        """Within, those of them may be thrown away that are at rest, and not needed."""
        chosen = [session for session in wanted if not self._needed[session] and at_rest(session)]
        gone = trio.Event()
        self._going.update(dict.fromkeys(chosen, gone))
        try:
            yield chosen
        finally:
            for session in chosen:
                del self._going[session]
            gone.set()
