"""Which sessions stay in memory though nobody is using them: the latest used, up to a number, a size and an age.

A session that somebody works for, reads or waits for lives as long as they hold it; this only keeps those that would
otherwise be folded from the log again and again. Letting one go forgets nothing: all of it is in the log.
"""

from collections import OrderedDict
from typing import NamedTuple, Protocol

import trio

MOST = 1024
"""Sessions: some 5 MiB of small ones. A home where more are in use at a time folds some anew, in half a millisecond."""
MOST_BYTES = 8 * 1024 * 1024
"""Of their logs, as they are on disk; the folds take about as much. The latest stays, however large."""


class Resting(Protocol):
    """What is kept: something with an id that knows how much there is of it."""

    @property
    def id(self) -> int: ...

    @property
    def size(self) -> int: ...


class _Entry(NamedTuple):
    session: Resting
    size: int
    used: float


class Kept:
    """The latest used come last. `idle_s` is the longest that one stays unused."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._kept: OrderedDict[int, _Entry] = OrderedDict()
        self._bytes = 0
        self._first = trio.Event()
        self._nap = trio.CancelScope()

    def __len__(self) -> int:
        return len(self._kept)

    def touch(self, session: Resting) -> None:
        """It is being used. Lets the oldest go where there is no room for all."""
        if before := self._kept.pop(session.id, None):
            self._bytes -= before.size
        entry = self._kept[session.id] = _Entry(session, session.size, trio.current_time())
        self._bytes += entry.size
        self._first.set()
        while len(self._kept) > MOST or (self._bytes > MOST_BYTES and len(self._kept) > 1):
            self._let_go()

    def forget(self, session: int) -> None:
        """Let this one go."""
        if entry := self._kept.pop(session, None):
            self._bytes -= entry.size

    def let_go_after(self, idle_s: float) -> None:
        """Another age, for those that are kept already too."""
        self._idle_s = idle_s
        self._nap.cancel()

    def _let_go(self) -> None:
        _, entry = self._kept.popitem(last=False)
        self._bytes -= entry.size

    async def age(self) -> None:
        """Let go what is too old, until cancelled. While nothing is kept, nothing wakes up."""
        while True:
            await self._first.wait()
            if self._kept:  # its last may have been forgotten meanwhile
                # A tenth late, so that what was used over a while goes together.
                with trio.CancelScope() as self._nap:
                    await trio.sleep_until(next(iter(self._kept.values())).used + 1.1 * self._idle_s)
            until = trio.current_time() - self._idle_s
            while self._kept and next(iter(self._kept.values())).used <= until:
                self._let_go()
            if not self._kept:
                self._first = trio.Event()
