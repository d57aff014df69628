"""The clients of one daemon run. Each request is a task, and reports to the expectations."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

import trio

from tests.fakes.export_documents import make_importer
from tests.runtime.model_based.controllable_store import STORAGE_FAILURES, ControllableStore
from tests.runtime.model_based.expectations import Expectations
from tests.runtime.model_based.export_import_checks import ExportedSession
from tests.runtime.model_based.fork_rewind_checks import HistoryRequest
from tests.runtime.model_based.operations import (
    AttachReader,
    Create,
    FailWrites,
    HistoryOperation,
    HoldWrites,
    Import,
    PollIdleReaders,
    Send,
    ToggleSubscriber,
)
from tests.runtime.model_based.subscriber import Subscriber
from tests.runtime.model_based.watcher import Watcher
from walrus_protocol.events import SessionsExpired
from walrus_protocol.methods import TurnResult
from walrus_protocol.methods.fork_rewind import ForkResult
from walrus_protocol.problems import Problem
from walrusd.export_import.exporter import Exporter
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.streams.fanout import Subscription
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.runtime.turns.turn_handle import TurnHandle

ALLOWED_PROBLEMS = {
    "session_closed",
    "session_busy",
    "session_not_found",
    "key_reused",
    "shutting_down",
    "storage_full",
    "storage_failed",
}
"""Kinds of Problem that a request may be refused with."""
EXPIRED_SESSION_PROBLEMS = {"session_not_found", "shutting_down"}
"""Kinds of Problem that a request for an expired session may be refused with."""
IMPORT_S = 60.0
"""Maximum real seconds of an import: the trio clock stands still while a thread does it."""


class Clients:
    """All clients of one daemon run, and their open requests."""

    def __init__(
        self, expectations: Expectations, runtime: Runtime, store: ControllableStore, nursery: trio.Nursery
    ) -> None:
        self.is_over = False
        """True after the power cut: results that arrive from now on reach no client."""
        self.pending_requests = 0
        """Number of open requests that do not wait for a turn."""
        self.last_seqs: dict[int, int] = {}
        """The last seq of each session at the last check."""
        self.request_scopes: list[trio.CancelScope] = []
        """The cancel scopes of open requests."""
        self.readers: list[tuple[Subscription, Watcher]] = []
        self.idle_readers: list[tuple[Subscription, Watcher]] = []
        self._expectations = expectations
        self._runtime = runtime
        self._store = store
        self._nursery = nursery

    def start(self, request: Callable[[], Awaitable[object]], session: int | None = None) -> None:
        """Starts a request. `session`: the session of a request that must be refused if that has expired."""
        self._nursery.start_soon(self._run_request, request, session)

    async def _run_request(self, request: Callable[[], Awaitable[object]], session: int | None) -> None:
        was_expired = session in self._expectations.expired_at
        with trio.CancelScope() as scope:
            self.request_scopes.append(scope)
            try:
                await request()
                assert not was_expired, f"session {session} has expired, but the request succeeded"
            except Problem as problem:
                if problem.kind not in (EXPIRED_SESSION_PROBLEMS if was_expired else ALLOWED_PROBLEMS):
                    raise
                if problem.kind == "session_not_found":
                    assert session is not None
                    self._expectations.reported_missing.add(session)
            finally:
                self.request_scopes.remove(scope)

    @contextmanager
    def count_pending(self) -> Iterator[None]:
        """Counts a request as pending within the block."""
        self.pending_requests += 1
        try:
            yield
        finally:
            self.pending_requests -= 1

    def on_sessions_expired(self, event: SessionsExpired) -> None:
        """Notes the expired sessions: later requests for them must be refused."""
        if not self.is_over:
            self._expectations.note_expired(event.sessions)

    def stop(self) -> None:
        """Ends all clients; results that arrive later are ignored."""
        self.is_over = True
        for subscriber in self._expectations.subscribers:
            subscriber.unsubscribe()
        self._nursery.cancel_scope.cancel()

    def cancel_request(self, client: int) -> None:
        if self.request_scopes:
            self.request_scopes[client % len(self.request_scopes)].cancel()

    async def create(self, operation: Create) -> None:
        with self.count_pending():
            session = await self._runtime.create_session("walrus", key=operation.key)
        if not self.is_over:
            self._expectations.note_created(session, operation.key)

    async def send_history_request(self, operation: HistoryOperation, session: int) -> HistoryRequest:
        with self.count_pending():
            request = await self._expectations.history_requests.send(
                self._runtime,
                operation,
                session,
                self.last_seqs.get(session, 1),
                was_expired=session in self._expectations.expired_at,
            )
        if self.is_over:
            request.answer = request.problem_kind = None  # the result reaches no client
        elif isinstance(request.answer, ForkResult):
            self._expectations.note_created(request.answer.session, key=None)
        return request

    async def send(self, operation: Send, session: int, *, is_resume: bool = False) -> None:
        expected_send = self._expectations.expect_send(session, operation)
        message = MessageRequest(
            content=expected_send.text,
            key=operation.key,
            when_busy=operation.when_busy,
            timeout_s=operation.timeout_s,
            kind="resume" if is_resume else "message",
        )
        try:
            with self.count_pending():
                handle = await self._runtime.send(session, message)
        except Problem:
            expected_send.accepted = expected_send.accepted if self.is_over else False
            raise
        if self.is_over:
            return
        async with self._runtime.session_cache.lease(session) as live:
            self._expectations.note_accepted(expected_send, live.session.state.last_seq)
        result = await (self._stream(handle, session) if operation.stream else handle.wait_result())
        if not self.is_over:
            expected_send.result = result

    async def _stream(self, handle: TurnHandle, session: int) -> TurnResult:
        """Reads the turn as session.stream does."""
        async with self._runtime.session_cache.lease(session) as live:
            with await handle.subscribe(live.stream) as subscription:
                watcher = Watcher(session, handle.since)
                while handle.result is None or subscription.cursor < handle.result.last_seq:
                    items = await subscription.next_batch()
                    if not items:
                        break
                    for item in items:
                        watcher.receive(item)
        return await handle.wait_result()

    async def interrupt(self, session: int) -> None:
        interrupted = await self._runtime.interrupt(session)
        if interrupted.turn is not None and not self.is_over:
            self._expectations.interrupted_turns.append((session, interrupted.turn))

    async def close(self, session: int, *, force: bool) -> None:
        closed = await self._runtime.close_session(session, force=force)
        if self.is_over or not closed:
            return
        self._expectations.closed_at.setdefault(session, self._expectations.next_time())
        if force and session not in self._expectations.archive.expired:
            assert (await self._runtime.session(session)).state == "closed"

    async def export(self, session: int) -> None:
        pieces: list[str] = []
        page_lock = trio.Lock()

        async def write(piece: str) -> None:
            await trio.lowlevel.checkpoint()
            pieces.append(piece)

        known_seq, log = self.last_seqs.get(session, 1), self._runtime.log
        with self.count_pending():
            await Exporter(log, session, write, page_lock).write_document(trio.current_time(), "0")
        if not self.is_over:
            self._expectations.documents.append(ExportedSession.parse("".join(pieces), session, known_seq))

    async def import_(self, operation: Import) -> None:
        if not self._expectations.documents:
            return
        document = self._expectations.documents[operation.document % len(self._expectations.documents)]
        with self.count_pending():
            clock_scope = trio.CancelScope()
            self._nursery.start_soon(self._keep_clock_running, clock_scope)
            try:
                importer = make_importer(self._runtime, trio.current_time)
                imported = await importer.import_document(BytesIO(document.text.encode()))
            finally:
                clock_scope.cancel()
        if not self.is_over:
            assert imported.session is not None
            self._expectations.note_imported(imported.session, document)

    async def _keep_clock_running(self, scope: trio.CancelScope) -> None:
        """Keeps a task runnable during an import: else the mock clock would jump and the run would seem idle."""
        with scope:
            until = time.monotonic() + IMPORT_S
            while True:
                await self._store.wait_released()
                await trio.lowlevel.checkpoint()
                assert time.monotonic() < until, "an import hangs"

    def disturb_store(self, operation: HoldWrites | FailWrites) -> None:
        """Holds or fails writes of the store, while requests are running."""
        self._nursery.start_soon(self._disturb_store, operation)

    async def _disturb_store(self, operation: HoldWrites | FailWrites) -> None:
        for _ in range(operation.steps):
            await trio.lowlevel.checkpoint()
        match operation:
            case HoldWrites(when):
                self._store.hold(when)
            case FailWrites(kind):
                self._store.failure = STORAGE_FAILURES[kind]

    async def attach(self, operation: AttachReader, session: int) -> None:
        async with self._runtime.session_cache.lease(session) as live:
            end_lease = self._runtime.session_cache.extend_lease(live)
            self._nursery.start_soon(self._read_attached, operation, live, end_lease)

    async def _read_attached(self, operation: AttachReader, live: LiveSession, end_lease: Callable[[], None]) -> None:
        try:
            await self._read_stream(operation, live)
        finally:
            end_lease()

    async def _read_stream(self, operation: AttachReader, live: LiveSession) -> None:
        since = operation.since % (live.session.state.last_seq + 1)
        watcher = Watcher(live.id, since, deltas=operation.deltas, marks=True)
        with live.stream.subscribe(since, deltas=operation.deltas, announce_caught_up=True) as subscription:
            (self.idle_readers if operation.idle else self.readers).append((subscription, watcher))
            while not operation.idle:
                for item in await subscription.next_batch():
                    watcher.receive(item)
            await trio.sleep_forever()

    def toggle_subscriber(self, operation: ToggleSubscriber) -> None:
        subscribers, global_stream = self._expectations.subscribers, self._runtime.global_stream
        number = operation.client % (len(subscribers) + 1)
        if number == len(subscribers):
            last = global_stream.last_offset
            subscribers.append(Subscriber(last if operation.since is None else operation.since % (last + 1)))
        if subscribers[number].subscription:
            subscribers[number].unsubscribe()
        else:
            subscription = subscribers[number].subscribe(global_stream, slow=operation.slow)
            self._nursery.start_soon(self._follow, subscribers[number], subscription)

    async def _follow(self, subscriber: Subscriber, subscription: Subscription) -> None:
        while subscriber.subscription is subscription and not subscriber.is_slow:
            await subscriber.read_batch(subscription)

    def poll_idle_readers(self, operation: PollIdleReaders) -> None:
        for subscription, watcher in self.idle_readers:
            self._nursery.start_soon(self.poll_reader, subscription, watcher, operation.limit)
        for subscriber in self._expectations.subscribers:
            if subscriber.subscription and subscriber.is_slow:
                self._nursery.start_soon(subscriber.poll, operation.limit)

    async def poll_reader(self, subscription: Subscription, watcher: Watcher, limit: int) -> None:
        """Lets an idle subscription read what is available."""
        if not watcher.is_polling:
            watcher.is_polling = True
            with trio.move_on_after(0.1):
                for item in await subscription.next_batch(limit):
                    watcher.receive(item)
            watcher.is_polling = False
