"""The sessions in memory, and the leases that keep them there.

A session is in memory once, and stays there while anybody has a lease of it. Sessions without a lease stay as long as
they are among the latest used: their number, bytes and idle time are bounded. Eviction loses nothing: everything is in
the log.
"""

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import msgspec
import trio

from walrus_protocol.events import SessionCreated
from walrus_protocol.problems import Problem
from walrusd.runtime.errors import attach_to_storage_errors
from walrusd.runtime.recording.recorder import TransactionExtras
from walrusd.runtime.sessions.live_session import LiveSession, SessionDependencies
from walrusd.runtime.sessions.load_session import load_session
from walrusd.session.session import Session
from walrusd.store.tables.idempotency_key import AddCreateKey, read_session_created_with

MAX_UNLEASED = 1024
"""Maximum number of sessions without a lease: about 5 MiB of small ones.

If more are in use in turn, some are loaded from the log again, in half a millisecond.
"""
MAX_UNLEASED_BYTES = 8 * 1024 * 1024
"""Maximum bytes of their logs on disk; the states in memory take about as much.

The latest session stays, however large.
"""


class _Entry:
    """What is known of one session id: a session in memory, or one that is being loaded, created or deleted."""

    __slots__ = ("change", "last_used", "leases", "live", "size")

    def __init__(self) -> None:
        self.live: LiveSession | None = None
        self.leases = 0
        self.change: trio.Event | None = None
        """Set when the session is loaded, created or deleted; None if none of these is under way."""
        self.size = 0
        self.last_used = 0.0
        """When the last lease ended; with `size`, of sessions without a lease."""


class SessionCache:
    """All sessions in memory by id. To be used on trio's thread only.

    Loading, creation and deletion of a session exclude each other; a lookup meanwhile waits for the end.
    """

    def __init__(self, deps: SessionDependencies, max_idle_s: float) -> None:
        """`max_idle_s`: maximum seconds that a session without a lease stays in memory."""
        self._deps = deps
        self._max_idle_s = max_idle_s
        self._entries: dict[int, _Entry] = {}
        self._unleased: OrderedDict[int, _Entry] = OrderedDict()
        """The entries of sessions in memory without a lease, the latest used last."""
        self._unleased_bytes = 0
        self._has_unleased = trio.Event()
        self._sleep_scope = trio.CancelScope()
        self._keys_in_creation: dict[str, trio.Event] = {}

    def __len__(self) -> int:
        return len(self.live_sessions())

    def live_sessions(self) -> tuple[LiveSession, ...]:
        return tuple(entry.live for entry in self._entries.values() if entry.live)

    def leased_sessions(self) -> tuple[int, ...]:
        """Returns the ids of the sessions that may not be evicted or deleted now."""
        return tuple(session for session, entry in self._entries.items() if entry.leases)

    def find_live(self, session: int) -> LiveSession | None:
        """Returns the session if it is in memory. Without a lease it stays there only until the caller waits."""
        entry = self._entries.get(session)
        return entry.live if entry else None

    @asynccontextmanager
    async def lease(self, session: int) -> AsyncIterator[LiveSession]:
        """Keeps the session in memory within the block, loading it first if necessary.

        A StorageFailed of the block names the session. Raises Problem (session_not_found, storage_failed).
        """
        with attach_to_storage_errors(session=session):
            entry = await self._lease_entry(session)
            try:
                if entry.live is None:
                    with self._changing(session, entry):
                        entry.live = await load_session(session, self._deps)
                yield entry.live
            finally:
                self._end_lease(session, entry)

    @asynccontextmanager
    async def pin(self, session: int) -> AsyncIterator[None]:
        """Prevents deletion of the session within the block, without loading it. A StorageFailed names the session."""
        with attach_to_storage_errors(session=session):
            entry = await self._lease_entry(session)
            try:
                yield
            finally:
                self._end_lease(session, entry)

    def extend_lease(self, live: LiveSession) -> Callable[[], None]:
        """Takes one more lease of a leased session, for a task that outlives the caller. Returns what ends it."""
        entry = self._entries[live.id]
        assert entry.live is live, "a leased session is in memory"
        assert entry.leases, "only a leased session is sure to stay in memory"
        entry.leases += 1
        return lambda: self._end_lease(live.id, entry)

    async def create(self, creation_event: SessionCreated, create_key: AddCreateKey | None = None) -> int:
        """Creates a durable session and returns its id. Raises StorageFailed."""
        session = self._deps.log.next_session()
        entry = await self._lease_entry(session)  # after a caller that looks up an id that does not exist yet
        live = LiveSession(Session(session), self._deps)
        try:
            # The store lists the session a moment before this task resumes: a caller that looks it up then has to wait.
            with self._changing(session, entry):
                extras = TransactionExtras(mutations=(create_key,) if create_key else ())
                await live.recorder.record(creation_event, extras=extras)
                entry.live = live
        except BaseException:
            live.close()
            raise
        finally:
            self._end_lease(session, entry)
        return session

    async def create_once(self, creation_event: SessionCreated, key: str, check_agent: Callable[[], object]) -> int:
        """Returns the session that was created with this key, creating it if there is none yet.

        `check_agent` is called before a session is created, and only then. Raises whatever it raises, Problem
        key_reused and StorageFailed.
        """
        fields = [creation_event.agent, creation_event.created_by, creation_event.title]
        digest = hashlib.sha256(msgspec.json.encode(fields)).digest()
        while (in_creation := self._keys_in_creation.get(key)) is not None:
            await in_creation.wait()
        self._keys_in_creation[key] = trio.Event()
        try:
            if known := await self._deps.log.read(read_session_created_with, key):
                session, known_digest = known
                if known_digest != digest:
                    raise Problem("key_reused", f"key {key!r} was used for another session", "Use a new key.")
                return session
            check_agent()
            return await self.create(creation_event, AddCreateKey(key, digest))
        finally:
            self._keys_in_creation.pop(key).set()

    @contextmanager
    def try_delete(self, candidates: Iterable[int]) -> Iterator[list[int]]:
        """Yields the candidates that may be deleted within the block: those that nobody uses.

        They are not in memory any more. A lookup waits until the block has ended.
        """
        chosen = [session for session in candidates if self._evict_if_unused(session)]
        deleted = trio.Event()
        for session in chosen:
            entry = self._entries[session] = _Entry()
            entry.change = deleted
        try:
            yield chosen
        finally:
            for session in chosen:
                del self._entries[session]
            deleted.set()

    def set_max_idle(self, max_idle_s: float) -> None:
        """Changes the maximum idle time, also for sessions that are idle already."""
        self._max_idle_s = max_idle_s
        self._sleep_scope.cancel()

    async def evict_loop(self) -> None:
        """Evicts sessions that are idle for too long, until cancelled. Sleeps while all sessions are leased."""
        while True:
            await self._has_unleased.wait()
            if self._unleased:  # the last one may have been leased meanwhile
                # A tenth later than due, so that sessions used at about the same time are evicted in one go.
                with trio.CancelScope() as self._sleep_scope:
                    await trio.sleep_until(self._least_recently_used().last_used + 1.1 * self._max_idle_s)
            used_before = trio.current_time() - self._max_idle_s
            while self._unleased and self._least_recently_used().last_used <= used_before:
                self._evict(next(iter(self._unleased)))
            if not self._unleased:
                self._has_unleased = trio.Event()

    async def _lease_entry(self, session: int) -> _Entry:
        """Takes a lease of the id, as soon as the session is not being loaded, created or deleted."""
        while (entry := self._entries.get(session)) and entry.change is not None:
            await entry.change.wait()
        if entry is None:
            entry = self._entries[session] = _Entry()
        if self._unleased.pop(session, None):
            self._unleased_bytes -= entry.size
        entry.leases += 1
        return entry

    def _end_lease(self, session: int, entry: _Entry) -> None:
        entry.leases -= 1
        if entry.leases:
            return
        if entry.live is None:
            del self._entries[session]
            return
        entry.size, entry.last_used = entry.live.size, trio.current_time()
        self._unleased[session] = entry
        self._unleased_bytes += entry.size
        self._has_unleased.set()
        while len(self._unleased) > MAX_UNLEASED or (
            self._unleased_bytes > MAX_UNLEASED_BYTES and len(self._unleased) > 1
        ):
            self._evict(next(iter(self._unleased)))

    @contextmanager
    def _changing(self, session: int, entry: _Entry) -> Iterator[None]:
        """Makes others that look up the session wait until the block has ended."""
        change = entry.change = trio.Event()
        try:
            yield
        finally:
            entry.change = None
            change.set()

    def _least_recently_used(self) -> _Entry:
        return next(iter(self._unleased.values()))

    def _evict_if_unused(self, session: int) -> bool:
        """Removes the session from memory; returns False if it is in use, and then it stays."""
        if session in self._unleased:
            self._evict(session)
        return session not in self._entries

    def _evict(self, session: int) -> None:
        entry = self._unleased.pop(session)
        del self._entries[session]
        self._unleased_bytes -= entry.size
        assert entry.live, "only a session in memory is evicted"
        entry.live.close()
