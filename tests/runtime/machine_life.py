"""One life of a daemon: its clients carry out orders, at once and side by side, until it is stopped or loses power."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import trio
import trio.testing

from tests.runtime.machine_branches import foreseen, outcome
from tests.runtime.machine_claims import Claims
from tests.runtime.machine_clients import Clients
from tests.runtime.machine_facts import Facts
from tests.runtime.machine_keeping import Keeping
from tests.runtime.machine_orders import (
    Asking,
    Attach,
    Branch,
    Checkpoint,
    Close,
    Create,
    Evict,
    Expire,
    Export,
    Fail,
    Fork,
    Hold,
    Import,
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
    Step,
    Sweep,
    Watch,
    Work,
)
from tests.runtime.machine_puppet import Puppet
from tests.runtime.machine_subscriber import Subscriber
from tests.runtime.machine_valve import Valve
from walrusd.runtime.runtime import Runtime

LONG_S = 10_000
"""Longer than any retry. The machine's clock leaps, or runs a thousand times too fast."""


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

    def __init__(
        self,
        claims: Claims,
        runtime: Runtime,
        valve: Valve,
        puppet: Puppet,
        keeping: Keeping,
        clients: Clients,
    ) -> None:
        self._claims = claims
        self._runtime = runtime
        self._valve = valve
        self._puppet = puppet
        self._keeping = keeping
        self._clients = clients

    async def begin(self) -> None:
        with trio.fail_after(LONG_S):
            await self._runtime.recover()
            if not self._claims.sessions and not self._valve.failing:
                await self._clients.create(Create(None))

    async def carry_out(self, moments: list[list[Order]]) -> Restart | PowerCut | None:
        """Until the power is cut, or it is to stop, or there are no more moments."""
        while moments:
            orders = moments.pop(0)
            for order in orders:
                match order:
                    case Fork() | Rewind() | Checkpoint() | Read() | Expire() if len(orders) == 1:
                        await self._alone(order)
                    case Restart():
                        await self._stop(order)
                        return order
                    case PowerCut():
                        for _ in range(order.steps):
                            await trio.lowlevel.checkpoint()
                        await trio.sleep(order.after_s)
                        return order
                    case _:
                        await self._obey(order)
            await self.rest()
            self._puppet.alone = None
        return None

    async def _obey(self, order: Order) -> None:  # noqa: C901 - one line an order
        clients = self._clients
        match order:
            case Create():
                clients.begin(partial(clients.create, order))
            case Import():
                clients.begin(partial(clients.import_, order))
            case Expire():
                clients.begin(partial(self._keeping.expire, order))
            case Sweep():
                clients.begin(self._keeping.sweep)
            case Evict(idle_s):
                self._runtime.evict_idle_after(idle_s)
            case Watch():
                clients.watch(order)
            case Look():
                clients.look(order)
            case Leave(client):
                clients.leave(client)
            case Speak():
                self._puppet.speak(order)
            case Work():
                self._puppet.work(order)
            case Settle(does):
                self._puppet.by_itself(does)
            case Hold() | Fail():
                clients.hurt(order)
            case Release():
                self._valve.release()
            case Mend():
                self._valve.failing = None
            case Pass(seconds):
                await trio.sleep(seconds)
            case Step(steps):
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            case Restart() | PowerCut():
                raise AssertionError("these end a life")
            case _:
                if self._claims.sessions:
                    self._ask(order)

    def _ask(self, order: Asking) -> None:
        """Something of a session."""
        clients, session = self._clients, self._claims.session(order.session)
        match order:
            case Send():
                clients.begin(partial(clients.send, order, session), session)
            case Resume():
                send = Send(order.session, "reject", None, False, None, False)
                clients.begin(partial(clients.send, send, session, by_hand=True), session)
            case Interrupt():
                clients.begin(partial(clients.interrupt, session), session)
            case Close(force=force):
                clients.begin(partial(clients.close, session, force=force), session)
            case Export():
                clients.begin(partial(clients.export, session), session)
            case Attach():
                clients.begin(partial(clients.attach, order, session), session)
            case Fork() | Rewind() | Checkpoint() | Read():
                clients.begin(partial(clients.branch, order, session))

    async def _alone(self, order: Branch | Expire) -> None:
        """While nothing else happens, not even time, there is one right answer."""
        with trio.fail_after(LONG_S), standing_still():
            await self._valve.rest()
            if self._valve.holds or self._valve.failing or not self._claims.sessions:
                await self._obey(order)
                return
            if isinstance(order, Expire):
                all_of_them = order.keep_s == 0 and not order.room
                await (self._keeping.check_gone(order) if all_of_them else self._keeping.expire(order))
                return
            facts = await Facts.of(self._valve.log)
            asked = await self._clients.branch(order, self._claims.session(order.session))
            assert outcome(asked) == foreseen(asked, facts, self._claims.archive.pasts())

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
        assert self._clients.entering == 0, "a request hangs"
        facts = await Facts.of(self._valve.log)
        claims, clients = self._claims, self._clients
        claims.archive.check(facts)
        pasts = claims.archive.pasts()
        for live in self._runtime.sessions_in_memory.live():
            folded = facts.sessions[live.id]
            assert live.session.outline == folded.outline, "memory is what the disk says"
            if live.session.conversation.missing is None:
                assert live.session.history.messages == pasts.of(live.id)[-1]
            assert live.inbox == facts.inboxes[live.id]
            assert live.feed.last_seq == folded.outline.last_seq
        for reader, _ in clients.readers:
            assert not reader.behind
        for _, watcher in (*clients.readers, *clients.idle):
            watcher.check(facts.rows[watcher.session])
        for session, messages in self._puppet.under_way():
            assert messages == pasts.of(session)[-1], "a model is asked with the conversation as it stands"
        clients.ends = {session: len(rows) for session, rows in facts.rows.items()}
        claims.check_all(facts, pasts, self._puppet.shown)
        await claims.check_carried(self._valve.log)

    async def _stop(self, order: Restart) -> None:
        self._valve.release(for_good=True)  # a store that lives has an outcome for every write
        with trio.fail_after(LONG_S):
            await self._runtime.stop(order.grace_s)
            await self._valve.rest()
        assert self._clients.entering == 0, "a request hangs"

    async def finish(self) -> Facts:
        """The store works, the model answers by itself: all that was accepted comes to its end, and is swept up."""
        self._valve.release(for_good=True)
        self._valve.failing = None
        self._puppet.by_itself()
        claims, clients = self._claims, self._clients
        with trio.fail_after(LONG_S):
            await self._valve.rest()
            for session in claims.living:
                await self._runtime.wait(session, {"idle", "error", "closed"})
            await trio.sleep(1)  # for a draft that should not be
            for reader, watcher in clients.idle:
                while reader.behind:
                    await clients.look_at(reader, watcher, 512)
            await self._keeping.sweep()
            await self._valve.rest()
        for number in range(len(claims.living)):
            await self._alone(Read(number))
        await self.rest()
        assert clients.waits == [], "a client waits for what will not come"
        for session in claims.closed.keys() - claims.gone.keys():
            assert (await self._runtime.session(session)).state == "closed"
        for session in claims.gone:
            await self._keeping.check_not_found(session)
        await self._read_all_over()
        return await Facts.of(self._valve.log)

    async def _read_all_over(self) -> None:
        """Those who follow the daemon, wherever they were, and some who come only now."""
        claims, everything = self._claims, self._runtime.everything
        newcomers = {since: Subscriber(since) for since in (0, 1, claims.archive.last_offset // 2)}
        with trio.fail_after(LONG_S):
            for subscriber in (*newcomers.values(), *claims.subscribers):
                reader = subscriber.reader or subscriber.join(everything, slow=True)
                while reader.behind:
                    await subscriber.follow(reader)
                subscriber.slow = False
        for since, newcomer in newcomers.items():
            newcomer.check_whole(claims.archive, since)
        for subscriber in claims.subscribers:
            subscriber.check(claims.archive)
