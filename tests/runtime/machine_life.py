"""One life of a daemon: its clients carry out orders, at once and side by side, until it is stopped or loses power."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import trio
import trio.testing

from tests.runtime.machine_branches import Asked, foreseen, outcome
from tests.runtime.machine_claims import Claim, Claims
from tests.runtime.machine_facts import Facts
from tests.runtime.machine_orders import (
    Attach,
    Branch,
    Checkpoint,
    Close,
    Create,
    Evict,
    Fail,
    Fork,
    Hold,
    Interrupt,
    Leave,
    Look,
    Mend,
    Order,
    Pass,
    PowerCut,
    Read,
    Release,
    Restart,
    Resume,
    Rewind,
    Send,
    Settle,
    Speak,
    Work,
)
from tests.runtime.machine_puppet import Puppet
from tests.runtime.machine_valve import Valve
from tests.runtime.machine_watcher import Watcher
from walrus_protocol.branches import Forked
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.runtime.bus import Reader
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.tickets import Ticket
from walrusd.store.log import StorageFailed, StorageFull

LONG_S = 10_000
"""Longer than any retry. The machine's clock leaps, or runs a thousand times too fast."""
STORAGE: dict[str, StorageFailed] = {"storage_full": StorageFull("full"), "storage_failed": StorageFailed("broken")}
EXPECTED = {"session_closed", "session_busy", "key_reused", "shutting_down", *STORAGE}
"""What a client of the machine may be refused with."""


@contextmanager
def standing_still() -> Iterator[None]:
    """No time passes: else what is read piece by piece would change between the pieces."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    rate, clock.rate = clock.rate, 0.0
    try:
        yield
    finally:
        clock.rate = rate


class Life:
    """Clients around one runtime."""

    def __init__(self, claims: Claims, runtime: Runtime, valve: Valve, puppet: Puppet, clients: trio.Nursery) -> None:
        self._claims = claims
        self._runtime = runtime
        self._valve = valve
        self._puppet = puppet
        self._clients = clients
        self._over = False
        """The power is off: what a client is told from now on it never hears."""
        self._waits: list[trio.CancelScope] = []
        """Of requests under way."""
        self._entering = 0
        """Requests that do not wait for a turn, and are not answered yet."""
        self._readers: list[tuple[Reader, Watcher]] = []
        self._idle: list[tuple[Reader, Watcher]] = []
        self._ends: dict[int, int] = {}
        """Seqs that sessions had come to when it was last looked."""

    async def begin(self) -> None:
        with trio.fail_after(LONG_S):
            await self._runtime.recover()
            if not self._claims.sessions and not self._valve.failing:
                await self._create(Create(None))

    async def carry_out(self, moments: list[list[Order]]) -> Restart | PowerCut | None:
        """Until the power is cut, or it is to stop, or there are no more moments."""
        while moments:
            orders = moments.pop(0)
            for order in orders:
                match order:
                    case Fork() | Rewind() | Checkpoint() | Read() if len(orders) == 1:
                        await self._alone(order)
                    case Restart():
                        await self._stop(order)
                        return order
                    case PowerCut():
                        for _ in range(order.steps):
                            await trio.lowlevel.checkpoint()
                        return order
                    case _:
                        await self._obey(order)
            await self.rest()
            self._puppet.alone = None
        return None

    def end(self) -> None:
        self._over = True
        self._clients.cancel_scope.cancel()

    async def _obey(self, order: Order) -> None:  # noqa: C901 - one line an order
        match order:
            case Create():
                self._begin(partial(self._create, order))
            case Send():
                self._begin(partial(self._send, order))
            case Interrupt(session):
                self._begin(partial(self._interrupt, self._session(session)))
            case Close(session, force):
                self._begin(partial(self._close, self._session(session), force=force))
            case Resume(session):
                self._begin(partial(self._send, Send(session, "reject", None, False, None, False), by_hand=True))
            case Fork() | Rewind() | Checkpoint() | Read():
                self._begin(partial(self._branch, order))
            case Evict(idle_s):
                self._runtime.evict_idle_after(idle_s)
            case Attach():
                self._clients.start_soon(self._attach, order)
            case Look(limit):
                for reader, watcher in self._idle:
                    self._clients.start_soon(self._look, reader, watcher, limit)
            case Leave(client):
                if self._waits:
                    self._waits[client % len(self._waits)].cancel()
            case Speak():
                self._puppet.speak(order)
            case Work():
                self._puppet.work(order)
            case Settle(does):
                self._puppet.by_itself(does)
            case Hold() | Fail():
                self._clients.start_soon(self._hurt, order)
            case Release():
                self._valve.release()
            case Mend():
                self._valve.failing = None
            case Pass(seconds):
                await trio.sleep(seconds)
            case Restart() | PowerCut():
                raise AssertionError("these end a life")

    def _begin(self, request: Callable[[], Awaitable[object]]) -> None:
        if self._claims.sessions:
            self._clients.start_soon(self._guarded, request)

    async def _guarded(self, request: Callable[[], Awaitable[object]]) -> None:
        with trio.CancelScope() as scope:
            self._waits.append(scope)
            try:
                await request()
            except Problem as refused:
                if refused.kind not in EXPECTED:
                    raise
            finally:
                self._waits.remove(scope)

    @contextmanager
    def _entry(self) -> Iterator[None]:
        self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1

    def _session(self, number: int) -> int:
        return self._claims.sessions[number % len(self._claims.sessions)]

    async def _create(self, order: Create) -> None:
        with self._entry():
            session = await self._runtime.create_session("walrus", key=order.key)
        if not self._over:
            self._claims.created(session, order.key)

    async def _alone(self, order: Branch) -> None:
        """While nothing else happens, not even time, there is one right answer."""
        with trio.fail_after(LONG_S), standing_still():
            await self._valve.rest()
            if self._valve.holds or self._valve.failing or not self._claims.sessions:
                await self._obey(order)
                return
            facts = await Facts.of(self._valve.log)
            asked = await self._branch(order)
            assert outcome(asked) == foreseen(asked, facts)

    async def _branch(self, order: Branch) -> Asked:
        session = self._session(order.session)
        with self._entry():
            asked = await self._claims.branches.ask(self._runtime, order, session, self._ends.get(session, 1))
        if self._over:
            asked.answer = asked.refused = None  # nobody is told
        elif isinstance(asked.answer, Forked):
            self._claims.created(asked.answer.session, key=None)
        return asked

    async def _send(self, order: Send, *, by_hand: bool = False) -> None:
        session = self._session(order.session)
        called = self._claims.tick()
        claim = Claim(
            session=session,
            text=f"{session} {order.key or called}{' other' if order.other and order.key else ''}",
            key=order.key,
            when_busy=order.when_busy,
            called=called,
        )
        self._claims.sends.append(claim)
        message = Incoming(
            content=claim.text,
            key=order.key,
            when_busy=order.when_busy,
            timeout_s=order.timeout_s,
            kind="resume" if by_hand else "message",
        )
        try:
            with self._entry():
                ticket = await self._runtime.send(session, message)
        except Problem:
            claim.accepted = claim.accepted if self._over else False
            raise
        if self._over:
            return
        live = await self._runtime.live(session)
        self._claims.accepted(claim, live.session.outline.last_seq)
        result = await (self._stream(ticket, session) if order.stream else ticket.outcome())
        if not self._over:
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

    async def _interrupt(self, session: int) -> None:
        interrupted = await self._runtime.interrupt(session)
        if interrupted.turn is not None and not self._over:
            self._claims.interrupted.append((session, interrupted.turn))

    async def _close(self, session: int, *, force: bool) -> None:
        closed = await self._runtime.close_session(session, force=force)
        if self._over or not closed:
            return
        self._claims.closed.setdefault(session, self._claims.tick())
        if force:
            assert (await self._runtime.session(session)).state == "closed"

    async def _attach(self, order: Attach) -> None:
        session = self._session(order.session)
        live = await self._runtime.live(session)
        since = order.since % (live.session.outline.last_seq + 1)
        watcher = Watcher(session, since, deltas=order.deltas, marks=True)
        with live.feed.reader(since, deltas=order.deltas, mark=True) as reader:
            (self._idle if order.idle else self._readers).append((reader, watcher))
            while not order.idle:
                for item in await reader.batch():
                    watcher.see(item)
            await trio.sleep_forever()

    async def _look(self, reader: Reader, watcher: Watcher, limit: int) -> None:
        """An idle reader reads what is there."""
        if not watcher.looks:
            watcher.looks = True
            with trio.move_on_after(0.1):
                for item in await reader.batch(limit):
                    watcher.see(item)
            watcher.looks = False

    async def _hurt(self, order: Hold | Fail) -> None:
        for _ in range(order.steps):
            await trio.lowlevel.checkpoint()
        match order:
            case Hold(where):
                self._valve.hold(where)
            case Fail(kind):
                self._valve.failing = STORAGE[kind]

    async def rest(self) -> None:
        """Let everything come to rest; then what is in memory is what is on the disk, and in whom it was told."""
        with trio.fail_after(LONG_S):
            await self._valve.rest()
        with standing_still():
            await self._check_all()

    async def _check_all(self) -> None:
        await self._valve.rest()
        assert not self._puppet.wrongs, self._puppet.wrongs
        if self._valve.holds:
            return
        assert self._entering == 0, "a request hangs"
        facts = await Facts.of(self._valve.log)
        assert set(self._claims.sessions) <= set(facts.rows)
        for live in self._runtime.sessions_in_memory.live():
            folded = facts.sessions[live.id]
            assert live.session.outline == folded.outline, "memory is what the disk says"
            if live.session.conversation.missing is None:
                assert live.session.history.messages == facts.pasts.of(live.id)[-1]
            assert live.inbox == facts.inboxes[live.id]
            assert live.feed.last_seq == folded.outline.last_seq
        for reader, _ in self._readers:
            assert not reader.behind
        for _, watcher in (*self._readers, *self._idle):
            watcher.check(facts.rows[watcher.session])
        for session, messages in self._puppet.under_way():
            assert messages == facts.pasts.of(session)[-1], "a model is asked with the conversation as it stands"
        self._claims.branches.check(facts, self._puppet.shown)
        self._ends = {session: len(rows) for session, rows in facts.rows.items()}
        for session in self._claims.sessions:
            self._claims.check(session, facts.events(session), facts.inboxes[session])

    async def _stop(self, order: Restart) -> None:
        self._valve.release(for_good=True)  # a store that lives has an outcome for every write
        with trio.fail_after(LONG_S):
            await self._runtime.stop(order.grace_s)
            await self._valve.rest()
        assert self._entering == 0, "a request hangs"

    async def finish(self) -> None:
        """The store works, the model answers by itself: all that was accepted comes to its end."""
        self._valve.release(for_good=True)
        self._valve.failing = None
        self._puppet.by_itself()
        with trio.fail_after(LONG_S):
            for session in self._claims.sessions:
                await self._runtime.wait(session, {"idle", "error", "closed"})
            await trio.sleep(1)  # for a draft that should not be
            for reader, watcher in self._idle:
                while reader.behind:
                    await self._look(reader, watcher, 512)
        for session in self._claims.sessions:
            await self._alone(Read(self._claims.sessions.index(session)))
        await self.rest()
        assert self._waits == [], "a client waits for what will not come"
        for session in self._claims.closed:
            assert (await self._runtime.session(session)).state == "closed"
