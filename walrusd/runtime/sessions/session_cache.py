"""The sessions that are in memory. It creates new ones and loads the others from the log on first use."""

import hashlib
from collections.abc import Callable
from weakref import WeakValueDictionary

import msgspec
import trio

from walrus_protocol.events import (
    SessionCreated,
)
from walrus_protocol.problems import Problem
from walrusd.runtime.errors import decode_event, session_not_found, unreadable_log
from walrusd.runtime.recording.recorder import TransactionExtras
from walrusd.runtime.sessions.deletion_guard import DeletionGuard
from walrusd.runtime.sessions.idle_cache import IdleCache
from walrusd.runtime.sessions.live_session import LiveSession, SessionDependencies
from walrusd.runtime.streams.fanout import (
    PAGE_ROWS,
)
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.session.history import ConversationView
from walrusd.session.recovery import recovered_draft
from walrusd.session.session import Session
from walrusd.session.transitions import InvalidTransition
from walrusd.store.contract import IdempotencyKey


class SessionCache:
    """All sessions by id. A session is loaded once, even for several simultaneous callers.

    References to sessions are weak: while anything uses a session, every caller gets the same object. So callers
    need not release it.
    """

    def __init__(self, deps: SessionDependencies, idle_cache: IdleCache) -> None:
        self._deps = deps
        self._idle_cache = idle_cache
        self._live: WeakValueDictionary[int, LiveSession] = WeakValueDictionary()
        self._loading: dict[int, trio.Event] = {}
        self._keys_in_creation: dict[str, trio.Event] = {}
        self.deletion_guard = DeletionGuard()

    def __len__(self) -> int:
        return len(self._live)

    def live_sessions(self) -> tuple[LiveSession, ...]:
        return tuple(self._live.values())

    def find_live(self, session: int) -> LiveSession | None:
        return self._live.get(session)

    def evict_if_unused(self, session: int) -> bool:
        """Removes the session from memory; returns False if it is in use, and then it stays."""
        self._idle_cache.discard(session)
        return session not in self._live and session not in self._loading

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
            if known := await self._deps.log.session_created_with(key):
                session, known_digest = known
                if known_digest != digest:
                    raise Problem("key_reused", f"key {key!r} was used for another session", "Use a new key.")
                return session
            check_agent()
            return (await self.create(creation_event, IdempotencyKey(key=key, digest=digest))).id
        finally:
            self._keys_in_creation.pop(key).set()

    async def create(self, creation_event: SessionCreated, create_key: IdempotencyKey | None = None) -> LiveSession:
        """Creates a durable session. Raises StorageFailed."""
        live = LiveSession(Session(self._deps.log.next_session()), self._deps)
        while (loading := self._loading.get(live.id)) is not None:
            await loading.wait()  # a caller looks up an id that does not exist yet
        # The store lists the session a moment before this task resumes: a caller that looks it up then has to wait.
        self._loading[live.id] = trio.Event()
        try:
            await live.recorder.record(creation_event, extras=TransactionExtras(create_key=create_key))
            self._live[live.id] = live
        finally:
            self._loading.pop(live.id).set()
        self._idle_cache.mark_used(live)
        return live

    async def get(self, session: int) -> LiveSession:
        """Returns the session, loading it if necessary. Raises Problem (session_not_found, storage_failed)."""
        while (live := self._live.get(session)) is None:
            await self.deletion_guard.wait_deleted(session)
            if (loading := self._loading.get(session)) is not None:
                await loading.wait()
                continue
            self._loading[session] = trio.Event()
            try:
                live = self._live[session] = await self._load(session)
            finally:
                self._loading.pop(session).set()
            break
        self._idle_cache.mark_used(live)
        return live

    async def history(self, session: int) -> ConversationView:
        """Returns the messages that the model sees. Raises Problem and StorageFailed."""
        live = await self.get(session)
        history = await live.history()
        self._idle_cache.mark_used(live)  # its size may have grown by inherited messages
        return history

    async def _load(self, number: int) -> LiveSession:
        log = self._deps.log
        snapshot = await log.session_snapshot(number, PAGE_ROWS)
        if snapshot is None:
            raise session_not_found(number)
        session, size, rows = Session(number), 0, snapshot.rows
        while rows:
            for row in rows:
                try:
                    session.apply(decode_event(number, row))
                except InvalidTransition as refused:
                    raise unreadable_log(number, row.seq, refused) from refused
                size += len(row.body)
            since = rows[-1].seq
            rows = await log.events(number, since, PAGE_ROWS) if since < snapshot.last_seq else []
        live = LiveSession(session, self._deps, size)
        live.recorder.inbox = snapshot.inbox
        if live.inbox:
            live.first_place, live.last_place = live.inbox[0].place, live.inbox[-1].place
        if session.turn:
            live.recovered_draft = recovered_draft(session.turn, snapshot.draft)
        for position, entry in enumerate(live.inbox, 1):
            handle = live.handles_by_place[entry.place] = TurnHandle(number)
            handle.mark_queued(position)
            if entry.key is not None and (key := await log.idempotency_key(number, entry.key)):
                handle.digest = key.digest
                live.handles_by_key[entry.key] = handle
        return live
