"""LRU cache of idle sessions, bounded by count, bytes and idle time.

A session in use stays in memory while anything refers to it. This cache holds a reference to recently used ones, so
that they need not be loaded from the log again and again. Eviction loses nothing: everything is in the log.
"""

from collections import OrderedDict
from typing import NamedTuple, Protocol

import trio

MAX_ENTRIES = 1024
"""Maximum number of sessions: about 5 MiB of small ones.

If more are in use at a time, some are loaded from the log again, in half a millisecond.
"""
MAX_BYTES = 8 * 1024 * 1024
"""Maximum bytes of their logs on disk; the states in memory take about as much.

The latest session stays, however large.
"""


class Cacheable(Protocol):
    """A cache entry's value: a session with its id and its size in bytes."""

    @property
    def id(self) -> int: ...

    @property
    def size(self) -> int: ...


class _Entry(NamedTuple):
    session: Cacheable
    size: int
    last_used: float


class IdleCache:
    """The cached sessions, in order of last use. `max_idle_s`: maximum seconds that one stays unused."""

    def __init__(self, max_idle_s: float) -> None:
        self._max_idle_s = max_idle_s
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._bytes = 0
        self._not_empty = trio.Event()
        self._sleep_scope = trio.CancelScope()

    def __len__(self) -> int:
        return len(self._entries)

    def mark_used(self, session: Cacheable) -> None:
        """Caches the session as the latest used; evicts the least recently used ones beyond the limits."""
        if previous := self._entries.pop(session.id, None):
            self._bytes -= previous.size
        entry = self._entries[session.id] = _Entry(session, session.size, trio.current_time())
        self._bytes += entry.size
        self._not_empty.set()
        while len(self._entries) > MAX_ENTRIES or (self._bytes > MAX_BYTES and len(self._entries) > 1):
            self._evict_oldest()

    def discard(self, session: int) -> None:
        """Removes the session from the cache, if it is there."""
        if entry := self._entries.pop(session, None):
            self._bytes -= entry.size

    def set_max_idle(self, max_idle_s: float) -> None:
        """Changes the maximum idle time, also for sessions that are cached already."""
        self._max_idle_s = max_idle_s
        self._sleep_scope.cancel()

    def _evict_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._bytes -= entry.size

    async def evict_loop(self) -> None:
        """Evicts sessions that are idle for too long, until cancelled. Sleeps while the cache is empty."""
        while True:
            await self._not_empty.wait()
            if self._entries:  # the last entry may have been discarded meanwhile
                # A tenth later than due, so that sessions used at about the same time are evicted in one go.
                with trio.CancelScope() as self._sleep_scope:
                    await trio.sleep_until(next(iter(self._entries.values())).last_used + 1.1 * self._max_idle_s)
            used_before = trio.current_time() - self._max_idle_s
            while self._entries and next(iter(self._entries.values())).last_used <= used_before:
                self._evict_oldest()
            if not self._entries:
                self._not_empty = trio.Event()
