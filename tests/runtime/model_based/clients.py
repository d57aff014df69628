"""The clients of one life: each request in a task of its own, and what came of it told to the claims."""

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
from walrusd.export_import.exporter import export_session
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
"""What a client of the machine may be refused with."""
EXPIRED_SESSION_PROBLEMS = {"session_not_found", "shutting_down"}
"""And one who asks for a session that has expired."""
IMPORT_S = 60.0
"""True seconds: the clock stands while a thread is at it."""


class Clients:
    def __init__(
        self, expectations: Expectations, runtime: Runtime, store: ControllableStore, nursery: trio.Nursery
    ) -> None:
        self.is_over = False
        """The power is off: what a client is told from now on it never hears."""
        self.pending_requests = 0
        """Requests that do not wait for a turn, and are not answered yet."""
        self.last_seqs: dict[int, int] = {}
        """Seqs that sessions had come to when it was last looked."""
        self.request_scopes: list[trio.CancelScope] = []
        """Of requests under way."""
        self.readers: list[tuple[Subscription, Watcher]] = []
        self.idle_readers: list[tuple[Subscription, Watcher]] = []
        self._expectations = expectations
        self._runtime = runtime
        self._store = store
        self._nursery = nursery

    def start(self, request: Callable[[], Awaitable[object]], session: int | None = None) -> None:
        """`session`: the one that it is about, where it has to be refused if that is gone."""
        self._nursery.start_soon(self._run_request, request, session)

    async def _run_request(self, request: Callable[[], Awaitable[object]], session: int | None) -> None:
        was_gone = session in self._expectations.expired_at
        with trio.CancelScope() as scope:
            self.request_scopes.append(scope)
            try:
                await request()
                assert not was_gone, f"session {session} has expired, and something was answered"
            except Problem as refused:
                if refused.kind not in (EXPIRED_SESSION_PROBLEMS if was_gone else ALLOWED_PROBLEMS):
                    raise
                if refused.kind == "session_not_found":
                    assert session is not None
                    self._expectations.reported_missing.add(session)
            finally:
                self.request_scopes.remove(scope)

    @contextmanager
    def count_pending(self) -> Iterator[None]:
        self.pending_requests += 1
        try:
            yield
        finally:
            self.pending_requests -= 1

    def on_sessions_expired(self, event: SessionsExpired) -> None:
        """Whoever asks from now on has to be told that there are none."""
        if not self.is_over:
            self._expectations.note_expired(event.sessions)

    def stop(self) -> None:
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
            asked = await self._expectations.history_requests.send(
                self._runtime,
                operation,
                session,
                self.last_seqs.get(session, 1),
                was_expired=session in self._expectations.expired_at,
            )
        if self.is_over:
            asked.answer = asked.problem_kind = None  # nobody is told
        elif isinstance(asked.answer, ForkResult):
            self._expectations.note_created(asked.answer.session, key=None)
        return asked

    async def send(self, operation: Send, session: int, *, is_resume: bool = False) -> None:
        claim = self._expectations.expect_send(session, operation)
        message = MessageRequest(
            content=claim.text,
            key=operation.key,
            when_busy=operation.when_busy,
            timeout_s=operation.timeout_s,
            kind="resume" if is_resume else "message",
        )
        try:
            with self.count_pending():
                ticket = await self._runtime.send(session, message)
        except Problem:
            claim.accepted = claim.accepted if self.is_over else False
            raise
        if self.is_over:
            return
        live = await self._runtime.live_session(session)
        self._expectations.note_accepted(claim, live.session.state.last_seq)
        result = await (self._stream(ticket, session) if operation.stream else ticket.wait_result())
        if not self.is_over:
            claim.result = result

    async def _stream(self, handle: TurnHandle, session: int) -> TurnResult:
        """As session.stream does it."""
        live = await self._runtime.live_session(session)
        with await handle.subscribe(live.stream) as reader:
            watcher = Watcher(session, handle.since)
            while handle.result is None or reader.cursor < handle.result.last_seq:
                items = await reader.next_batch()
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
        page = trio.Lock()

        async def say(piece: str) -> None:
            await trio.lowlevel.checkpoint()
            pieces.append(piece)

        known_seq, log = self.last_seqs.get(session, 1), self._runtime.log
        with self.count_pending():
            await export_session(log, session, say, page_slot=lambda: page, clock=trio.current_time, version="0")
        if not self.is_over:
            self._expectations.documents.append(ExportedSession.parse("".join(pieces), session, known_seq))

    async def import_(self, operation: Import) -> None:
        if not self._expectations.documents:
            return
        document = self._expectations.documents[operation.document % len(self._expectations.documents)]
        with self.count_pending():
            awake = trio.CancelScope()
            self._nursery.start_soon(self._keep_clock_running, awake)
            try:
                imported = await make_importer(self._runtime).import_document(BytesIO(document.text.encode()))
            finally:
                awake.cancel()
        if not self.is_over:
            assert imported.session is not None
            self._expectations.note_imported(imported.session, document)

    async def _keep_clock_running(self, scope: trio.CancelScope) -> None:
        """The clock would leap, and the machine think that all rests, while a thread is at an import."""
        with scope:
            until = time.monotonic() + IMPORT_S
            while True:
                await self._store.wait_released()
                await trio.lowlevel.checkpoint()
                assert time.monotonic() < until, "an import hangs"

    def disturb_store(self, operation: HoldWrites | FailWrites) -> None:
        """What befalls the store while they are at it."""
        self._nursery.start_soon(self._disturb_store, operation)

    async def _disturb_store(self, operation: HoldWrites | FailWrites) -> None:
        for _ in range(operation.steps):
            await trio.lowlevel.checkpoint()
        match operation:
            case HoldWrites(where):
                self._store.hold(where)
            case FailWrites(kind):
                self._store.failure = STORAGE_FAILURES[kind]

    async def attach(self, operation: AttachReader, session: int) -> None:
        live = await self._runtime.live_session(session)
        self._nursery.start_soon(self._read_attached, operation, live)

    async def _read_attached(self, operation: AttachReader, live: LiveSession) -> None:
        since = operation.since % (live.session.state.last_seq + 1)
        watcher = Watcher(live.id, since, deltas=operation.deltas, marks=True)
        with live.stream.subscribe(since, deltas=operation.deltas, announce_caught_up=True) as reader:
            (self.idle_readers if operation.idle else self.readers).append((reader, watcher))
            while not operation.idle:
                for item in await reader.next_batch():
                    watcher.receive(item)
            await trio.sleep_forever()

    def toggle_subscriber(self, operation: ToggleSubscriber) -> None:
        subscribers, everything = self._expectations.subscribers, self._runtime.global_stream
        number = operation.client % (len(subscribers) + 1)
        if number == len(subscribers):
            last = everything.last_offset
            subscribers.append(Subscriber(last if operation.since is None else operation.since % (last + 1)))
        if subscribers[number].subscription:
            subscribers[number].unsubscribe()
        else:
            reader = subscribers[number].subscribe(everything, slow=operation.slow)
            self._nursery.start_soon(self._follow, subscribers[number], reader)

    async def _follow(self, subscriber: Subscriber, reader: Subscription) -> None:
        while subscriber.subscription is reader and not subscriber.is_slow:
            await subscriber.read_batch(reader)

    def poll_idle_readers(self, operation: PollIdleReaders) -> None:
        for reader, watcher in self.idle_readers:
            self._nursery.start_soon(self.poll_reader, reader, watcher, operation.limit)
        for subscriber in self._expectations.subscribers:
            if subscriber.subscription and subscriber.is_slow:
                self._nursery.start_soon(subscriber.poll, operation.limit)

    async def poll_reader(self, reader: Subscription, watcher: Watcher, limit: int) -> None:
        """An idle reader reads what is there."""
        if not watcher.is_polling:
            watcher.is_polling = True
            with trio.move_on_after(0.1):
                for item in await reader.next_batch(limit):
                    watcher.receive(item)
            watcher.is_polling = False
