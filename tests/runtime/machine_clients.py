"""The clients of one life: each request in a task of its own, and what came of it told to the claims."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

import trio

from tests.runtime.machine_branches import Asked
from tests.runtime.machine_carrier import Document
from tests.runtime.machine_claims import Claims
from tests.runtime.machine_orders import Attach, Branch, Create, Fail, Hold, Import, Look, Send, Watch
from tests.runtime.machine_subscriber import Subscriber
from tests.runtime.machine_valve import STORAGE, Valve
from tests.runtime.machine_watcher import Watcher
from walrus_protocol.branches import Forked
from walrus_protocol.events import SessionsExpired
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.runtime.bus import Reader
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.portable.exporting import export
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions import LiveSession
from walrusd.runtime.tickets import Ticket

EXPECTED = {
    "session_closed",
    "session_busy",
    "session_not_found",
    "key_reused",
    "shutting_down",
    "storage_full",
    "storage_failed",
}
"""What a client of the machine may be refused with."""
OF_THE_GONE = {"session_not_found", "shutting_down"}
"""And one who asks for a session that has expired."""
IMPORT_S = 60.0
"""True seconds: the clock stands while a thread is at it."""


class Clients:
    def __init__(self, claims: Claims, runtime: Runtime, valve: Valve, nursery: trio.Nursery) -> None:
        self.over = False
        """The power is off: what a client is told from now on it never hears."""
        self.entering = 0
        """Requests that do not wait for a turn, and are not answered yet."""
        self.ends: dict[int, int] = {}
        """Seqs that sessions had come to when it was last looked."""
        self.waits: list[trio.CancelScope] = []
        """Of requests under way."""
        self.readers: list[tuple[Reader, Watcher]] = []
        self.idle: list[tuple[Reader, Watcher]] = []
        self._claims = claims
        self._runtime = runtime
        self._valve = valve
        self._nursery = nursery

    def begin(self, request: Callable[[], Awaitable[object]], session: int | None = None) -> None:
        """`session`: the one that it is about, where it has to be refused if that is gone."""
        self._nursery.start_soon(self._guarded, request, session)

    async def _guarded(self, request: Callable[[], Awaitable[object]], session: int | None) -> None:
        was_gone = session in self._claims.gone
        with trio.CancelScope() as scope:
            self.waits.append(scope)
            try:
                await request()
                assert not was_gone, f"session {session} has expired, and something was answered"
            except Problem as refused:
                if refused.kind not in (OF_THE_GONE if was_gone else EXPECTED):
                    raise
                if refused.kind == "session_not_found":
                    assert session is not None
                    self._claims.missed.add(session)
            finally:
                self.waits.remove(scope)

    @contextmanager
    def entry(self) -> Iterator[None]:
        self.entering += 1
        try:
            yield
        finally:
            self.entering -= 1

    def see(self, fact: SessionsExpired) -> None:
        """Whoever asks from now on has to be told that there are none."""
        if not self.over:
            self._claims.went(fact.sessions)

    def end(self) -> None:
        self.over = True
        for subscriber in self._claims.subscribers:
            subscriber.leave()
        self._nursery.cancel_scope.cancel()

    def leave(self, client: int) -> None:
        if self.waits:
            self.waits[client % len(self.waits)].cancel()

    async def create(self, order: Create) -> None:
        with self.entry():
            session = await self._runtime.create_session("walrus", key=order.key)
        if not self.over:
            self._claims.created(session, order.key)

    async def branch(self, order: Branch, session: int) -> Asked:
        with self.entry():
            asked = await self._claims.branches.ask(
                self._runtime,
                order,
                session,
                self.ends.get(session, 1),
                was_gone=session in self._claims.gone,
            )
        if self.over:
            asked.answer = asked.refused = None  # nobody is told
        elif isinstance(asked.answer, Forked):
            self._claims.created(asked.answer.session, key=None)
        return asked

    async def send(self, order: Send, session: int, *, by_hand: bool = False) -> None:
        claim = self._claims.claim(session, order)
        message = Incoming(
            content=claim.text,
            key=order.key,
            when_busy=order.when_busy,
            timeout_s=order.timeout_s,
            kind="resume" if by_hand else "message",
        )
        try:
            with self.entry():
                ticket = await self._runtime.send(session, message)
        except Problem:
            claim.accepted = claim.accepted if self.over else False
            raise
        if self.over:
            return
        live = await self._runtime.live(session)
        self._claims.accepted(claim, live.session.outline.last_seq)
        result = await (self._stream(ticket, session) if order.stream else ticket.outcome())
        if not self.over:
            claim.result = result

    async def _stream(self, ticket: Ticket, session: int) -> TurnResult:
        """As session.stream does it."""
        live = await self._runtime.live(session)
        with await ticket.listen(live.feed) as reader:
            watcher = Watcher(session, ticket.since)
            while ticket.result is None or reader.cursor < ticket.result.last_seq:
                items = await reader.batch()
                if not items:
                    break
                for item in items:
                    watcher.see(item)
        return await ticket.outcome()

    async def interrupt(self, session: int) -> None:
        interrupted = await self._runtime.interrupt(session)
        if interrupted.turn is not None and not self.over:
            self._claims.interrupted.append((session, interrupted.turn))

    async def close(self, session: int, *, force: bool) -> None:
        closed = await self._runtime.close_session(session, force=force)
        if self.over or not closed:
            return
        self._claims.closed.setdefault(session, self._claims.tick())
        if force and session not in self._claims.archive.expired:
            assert (await self._runtime.session(session)).state == "closed"

    async def export(self, session: int) -> None:
        pieces: list[str] = []
        page = trio.Lock()

        async def say(piece: str) -> None:
            await trio.lowlevel.checkpoint()
            pieces.append(piece)

        known_seq, log = self.ends.get(session, 1), self._runtime.log
        with self.entry():
            await export(log, session, say, page=lambda: page, clock=trio.current_time, version="0")
        if not self.over:
            self._claims.documents.append(Document.of("".join(pieces), session, known_seq))

    async def import_(self, order: Import) -> None:
        if not self._claims.documents:
            return
        document = self._claims.documents[order.document % len(self._claims.documents)]
        with self.entry():
            awake = trio.CancelScope()
            self._nursery.start_soon(self._stay_awake, awake)
            try:
                imported = await self._runtime.imports.take(BytesIO(document.text.encode()))
            finally:
                awake.cancel()
        if not self.over:
            assert imported.session is not None
            self._claims.imported(imported.session, document)

    async def _stay_awake(self, awake: trio.CancelScope) -> None:
        """The clock would leap, and the machine think that all rests, while a thread is at an import."""
        with awake:
            until = time.monotonic() + IMPORT_S
            while True:
                await self._valve.flowing()
                await trio.lowlevel.checkpoint()
                assert time.monotonic() < until, "an import hangs"

    def hurt(self, order: Hold | Fail) -> None:
        """What befalls the store while they are at it."""
        self._nursery.start_soon(self._hurt, order)

    async def _hurt(self, order: Hold | Fail) -> None:
        for _ in range(order.steps):
            await trio.lowlevel.checkpoint()
        match order:
            case Hold(where):
                self._valve.hold(where)
            case Fail(kind):
                self._valve.failing = STORAGE[kind]

    async def attach(self, order: Attach, session: int) -> None:
        live = await self._runtime.live(session)
        self._nursery.start_soon(self._attached, order, live)

    async def _attached(self, order: Attach, live: LiveSession) -> None:
        since = order.since % (live.session.outline.last_seq + 1)
        watcher = Watcher(live.id, since, deltas=order.deltas, marks=True)
        with live.feed.reader(since, deltas=order.deltas, mark=True) as reader:
            (self.idle if order.idle else self.readers).append((reader, watcher))
            while not order.idle:
                for item in await reader.batch():
                    watcher.see(item)
            await trio.sleep_forever()

    def watch(self, order: Watch) -> None:
        subscribers, everything = self._claims.subscribers, self._runtime.everything
        number = order.client % (len(subscribers) + 1)
        if number == len(subscribers):
            last = everything.last_offset
            subscribers.append(Subscriber(last if order.since is None else order.since % (last + 1)))
        if subscribers[number].reader:
            subscribers[number].leave()
        else:
            reader = subscribers[number].join(everything, slow=order.slow)
            self._nursery.start_soon(self._follow, subscribers[number], reader)

    async def _follow(self, subscriber: Subscriber, reader: Reader) -> None:
        while subscriber.reader is reader and not subscriber.slow:
            await subscriber.follow(reader)

    def look(self, order: Look) -> None:
        for reader, watcher in self.idle:
            self._nursery.start_soon(self.look_at, reader, watcher, order.limit)
        for subscriber in self._claims.subscribers:
            if subscriber.reader and subscriber.slow:
                self._nursery.start_soon(subscriber.look, order.limit)

    async def look_at(self, reader: Reader, watcher: Watcher, limit: int) -> None:
        """An idle reader reads what is there."""
        if not watcher.looks:
            watcher.looks = True
            with trio.move_on_after(0.1):
                for item in await reader.batch(limit):
                    watcher.see(item)
            watcher.looks = False
