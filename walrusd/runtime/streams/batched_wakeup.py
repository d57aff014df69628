"""Wakes subscribers: few at once, many in batches with pauses, so that turns continue in between.

Sending the eight events of a turn to a thousand subscribers takes the event loop at least 17 ms. Woken all at once,
they would stop the turn for that long at each of its steps. In batches with pauses they take at most a quarter of the
loop's time, and receive events a tenth of a second late.
"""

from collections.abc import Collection
from itertools import islice
from typing import Protocol

import trio

BATCH_SIZE = 16
"""Maximum subscribers woken together; they delay a turn by a third of a millisecond.

Few sessions have more.
"""
PAUSE_S = 0.001
"""Seconds between two batches."""


class Wakeable(Protocol):
    """A subscriber with a task that can be woken."""

    def wake(self) -> None: ...


class BatchedWakeup:
    """The subscribers that are to be woken. Each is in it at most once, which bounds its size."""

    def __init__(self) -> None:
        self._pending: dict[Wakeable, None] = {}
        self._has_pending = trio.Event()

    def wake(self, targets: Collection[Wakeable]) -> None:
        """Wakes the targets, now if they are few, else in batches.

        A subscriber in a batch receives everything that came meanwhile at once, with one write to its socket.
        """
        if len(targets) <= BATCH_SIZE:
            for target in targets:
                target.wake()
        else:
            self._pending.update(dict.fromkeys(targets))
            self._has_pending.set()

    async def run(self) -> None:
        """Wakes pending subscribers batch by batch, until cancelled."""
        while True:
            await self._has_pending.wait()
            while self._pending:
                for target in list(islice(self._pending, BATCH_SIZE)):
                    del self._pending[target]
                    target.wake()
                await trio.sleep(PAUSE_S)
            self._has_pending = trio.Event()
