"""Many readers of one thing: a few are woken at once, a crowd in small parts, so that turns go on in between.

A thousand who are all sent a turn's eight events take the loop 17 ms at least. Given them at once, that is how long the
turn stands still at each of its steps; in parts with pauses they take a quarter of the loop's time at most, and are a
tenth of a second behind.
"""

from collections.abc import Collection
from itertools import islice
from typing import Protocol

import trio

BATCH_SIZE = 16
"""Readers woken together: their tasks hold up a turn's for a third of a millisecond. Few sessions have more."""
PAUSE_S = 0.001
"""Between two parts of a crowd."""


class Wakeable(Protocol):
    def wake(self) -> None: ...


class BatchedWakeup:
    """Who is to be woken. Nobody is in it twice, so it holds no more than there are readers."""

    def __init__(self) -> None:
        self._pending: dict[Wakeable, None] = {}
        self._has_pending = trio.Event()

    def wake(self, targets: Collection[Wakeable]) -> None:
        """What one of a crowd has missed meanwhile it is given together, and its socket is written to once."""
        if len(targets) <= BATCH_SIZE:
            for reader in targets:
                reader.wake()
        else:
            self._pending.update(dict.fromkeys(targets))
            self._has_pending.set()

    async def run(self) -> None:
        """Wake them part by part, until cancelled."""
        while True:
            await self._has_pending.wait()
            while self._pending:
                for reader in list(islice(self._pending, BATCH_SIZE)):
                    del self._pending[reader]
                    reader.wake()
                await trio.sleep(PAUSE_S)
            self._has_pending = trio.Event()
