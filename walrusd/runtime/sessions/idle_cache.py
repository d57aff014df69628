"""Which sessions stay in memory though nobody is using them: the latest used, up to a number, a size and an age.

A session that somebody works for, reads or waits for lives as long as they hold it; this only keeps those that would
otherwise be folded from the log again and again. Letting one go forgets nothing: all of it is in the log.
"""

from collections import OrderedDict
from typing import NamedTuple, Protocol

import trio

MAX_ENTRIES = 1024
"""Sessions: some 5 MiB of small ones. A home where more are in use at a time folds some anew, in half a millisecond."""
MAX_BYTES = 8 * 1024 * 1024
"""Of their logs, as they are on disk; the folds take about as much. The latest stays, however large."""


class Cacheable(Protocol):
    """What is kept: something with an id that knows how much there is of it."""

    @property
    def id(self) -> int: ...

    @property
    def size(self) -> int: ...


class _Entry(NamedTuple):
    session: Cacheable
    size: int
    last_used: float


class IdleCache:
    """The latest used come last. `idle_s` is the longest that one stays unused."""

    def __init__(self, max_idle_s: float) -> None:
        self._max_idle_s = max_idle_s
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._bytes = 0
        self._not_empty = trio.Event()
        self._sleep_scope = trio.CancelScope()

    def __len__(self) -> int:
        return len(self._entries)

    def mark_used(self, session: Cacheable) -> None:
        """It is being used. Lets the oldest go where there is no room for all."""
        if before := self._entries.pop(session.id, None):
            self._bytes -= before.size
        entry = self._entries[session.id] = _Entry(session, session.size, trio.current_time())
        self._bytes += entry.size
        self._not_empty.set()
        while len(self._entries) > MAX_ENTRIES or (self._bytes > MAX_BYTES and len(self._entries) > 1):
            self._evict_oldest()

    def discard(self, session: int) -> None:
        """Let this one go."""
        if entry := self._entries.pop(session, None):
            self._bytes -= entry.size

    def set_max_idle(self, max_idle_s: float) -> None:
        """Another age, for those that are kept already too."""
        self._max_idle_s = max_idle_s
        self._sleep_scope.cancel()

    def _evict_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._bytes -= entry.size

    async def evict_loop(self) -> None:
        """Let go what is too old, until cancelled. While nothing is kept, nothing wakes up."""
        while True:
            await self._not_empty.wait()
            if self._entries:  # its last may have been forgotten meanwhile
                # A tenth late, so that what was used over a while goes together.
                with trio.CancelScope() as self._sleep_scope:
                    await trio.sleep_until(next(iter(self._entries.values())).last_used + 1.1 * self._max_idle_s)
            until = trio.current_time() - self._max_idle_s
            while self._entries and next(iter(self._entries.values())).last_used <= until:
                self._evict_oldest()
            if not self._entries:
                self._not_empty = trio.Event()
