"""Many readers of one thing: a few are woken at once, a crowd in small parts, so that turns go on in between.

A thousand who are all sent a turn's eight events take the loop 17 ms at least. Given them at once, that is how long the
turn stands still at each of its steps; in parts with pauses they take a quarter of the loop's time at most, and are a
tenth of a second behind.
"""

from collections.abc import Collection
from itertools import islice
from typing import Protocol

import trio

AT_ONCE = 16
"""Readers woken together: their tasks hold up a turn's for a third of a millisecond. Few sessions have more."""
PAUSE_S = 0.001
"""Between two parts of a crowd."""


class Sleeper(Protocol):
    def wake(self) -> None: ...


class Crowd:
    """Who is to be woken. Nobody is in it twice, so it holds no more than there are readers."""

    def __init__(self) -> None:
        self._waiting: dict[Sleeper, None] = {}
        self._some = trio.Event()

    def wake(self, readers: Collection[Sleeper]) -> None:
        """What one of a crowd has missed meanwhile it is given together, and its socket is written to once."""
        if len(readers) <= AT_ONCE:
            for reader in readers:
                reader.wake()
        else:
            self._waiting.update(dict.fromkeys(readers))
            self._some.set()

    async def keep(self) -> None:
        """Wake them part by part, until cancelled."""
        while True:
            await self._some.wait()
            while self._waiting:
                for reader in list(islice(self._waiting, AT_ONCE)):
                    del self._waiting[reader]
                    reader.wake()
                await trio.sleep(PAUSE_S)
            self._some = trio.Event()
