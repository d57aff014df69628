"""One life of a daemon: its clients carry out orders, at once and side by side, until it is stopped or loses power."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import trio
import trio.testing

from tests.runtime.model_based.clients import Clients
from tests.runtime.model_based.controllable_store import ControllableStore
from tests.runtime.model_based.expectations import Expectations
from tests.runtime.model_based.fork_rewind_checks import actual_outcome, expected_outcome
from tests.runtime.model_based.operations import (
    AdvanceTime,
    AnswerAutomatically,
    AttachReader,
    CancelRequest,
    Close,
    Create,
    ExpireSessions,
    Export,
    FailWrites,
    Fork,
    HistoryOperation,
    HoldWrites,
    Import,
    Interrupt,
    MakeCheckpoint,
    ModelAction,
    Operation,
    PollIdleReaders,
    PowerCut,
    ReadHistory,
    ReleaseWrites,
    RepairStore,
    Restart,
    Resume,
    Rewind,
    Send,
    SessionOperation,
    SetMaxIdle,
    Sweep,
    ToggleSubscriber,
    ToolAction,
    YieldToOthers,
)
from tests.runtime.model_based.retention_checks import RetentionDriver
from tests.runtime.model_based.scripted_model import ScriptedModel
from tests.runtime.model_based.store_contents import StoreContents
from tests.runtime.model_based.subscriber import Subscriber
from walrusd.runtime.runtime import Runtime

LONG_S = 10_000
"""Longer than any retry. The machine's clock leaps, or runs a thousand times too fast."""


@contextmanager
def stopped_clock() -> Iterator[None]:
    """No time passes: else what is read piece by piece would change between the pieces."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    rate, clock.rate = clock.rate, 0.0
    try:
        yield
    finally:
        clock.rate = rate


class DaemonRun:
    """Clients around one runtime."""

    def __init__(
        self,
        expectations: Expectations,
        runtime: Runtime,
        store: ControllableStore,
        model: ScriptedModel,
        retention: RetentionDriver,
        clients: Clients,
    ) -> None:
        self._expectations = expectations
        self._runtime = runtime
        self._store = store
        self._model = model
        self._retention = retention
        self._clients = clients

    async def start(self) -> None:
        with trio.fail_after(LONG_S):
            await self._runtime.recover()
            if not self._expectations.sessions and not self._store.failure:
                await self._clients.create(Create(None))

    async def run(self, groups: list[list[Operation]]) -> Restart | PowerCut | None:
        """Until the power is cut, or it is to stop, or there are no more moments."""
        while groups:
            orders = groups.pop(0)
            for order in orders:
                match order:
                    case Fork() | Rewind() | MakeCheckpoint() | ReadHistory() | ExpireSessions() if len(orders) == 1:
                        await self._execute_alone(order)
                    case Restart():
                        await self._stop(order)
                        return order
                    case PowerCut():
                        for _ in range(order.steps):
                            await trio.lowlevel.checkpoint()
                        await trio.sleep(order.after_s)
                        return order
                    case _:
                        await self._execute(order)
            await self.settle_and_check()
            self._model.auto_action = None
        return None

    async def _execute(self, operation: Operation) -> None:  # noqa: C901 - one line an order
        clients = self._clients
        match operation:
            case Create():
                clients.start(partial(clients.create, operation))
            case Import():
                clients.start(partial(clients.import_, operation))
            case ExpireSessions():
                clients.start(partial(self._retention.expire, operation))
            case Sweep():
                clients.start(self._retention.sweep)
            case SetMaxIdle(idle_s):
                self._runtime.evict_idle_after(idle_s)
            case ToggleSubscriber():
                clients.toggle_subscriber(operation)
            case PollIdleReaders():
                clients.poll_idle_readers(operation)
            case CancelRequest(client):
                clients.cancel_request(client)
            case ModelAction():
                self._model.act_on_model_call(operation)
            case ToolAction():
                self._model.act_on_tool_call(operation)
            case AnswerAutomatically(does):
                self._model.set_auto_action(does)
            case HoldWrites() | FailWrites():
                clients.disturb_store(operation)
            case ReleaseWrites():
                self._store.release()
            case RepairStore():
                self._store.failure = None
            case AdvanceTime(seconds):
                await trio.sleep(seconds)
            case YieldToOthers(steps):
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            case Restart() | PowerCut():
                raise AssertionError("these end a life")
            case _:
                if self._expectations.sessions:
                    self._execute_on_session(operation)

    def _execute_on_session(self, operation: SessionOperation) -> None:
        """Something of a session."""
        clients, session = self._clients, self._expectations.pick_session(operation.session)
        match operation:
            case Send():
                clients.start(partial(clients.send, operation, session), session)
            case Resume():
                send = Send(operation.session, "reject", None, False, None, False)
                clients.start(partial(clients.send, send, session, is_resume=True), session)
            case Interrupt():
                clients.start(partial(clients.interrupt, session), session)
            case Close(force=force):
                clients.start(partial(clients.close, session, force=force), session)
            case Export():
                clients.start(partial(clients.export, session), session)
            case AttachReader():
                clients.start(partial(clients.attach, operation, session), session)
            case Fork() | Rewind() | MakeCheckpoint() | ReadHistory():
                clients.start(partial(clients.send_history_request, operation, session))

    async def _execute_alone(self, operation: HistoryOperation | ExpireSessions) -> None:
        """While nothing else happens, not even time, there is one right answer."""
        with trio.fail_after(LONG_S), stopped_clock():
            await self._store.wait_idle()
            if self._store.held_at or self._store.failure or not self._expectations.sessions:
                await self._execute(operation)
                return
            if isinstance(operation, ExpireSessions):
                all_of_them = operation.keep_s == 0 and not operation.over_quota
                await (
                    self._retention.check_all_expired(operation) if all_of_them else self._retention.expire(operation)
                )
                return
            facts = await StoreContents.read(self._store.log)
            asked = await self._clients.send_history_request(
                operation, self._expectations.pick_session(operation.session)
            )
            assert actual_outcome(asked) == expected_outcome(asked, facts, self._expectations.archive.histories())

    async def settle_and_check(self) -> None:
        """Let everything come to rest; then what is in memory is what is on the disk, and in whom it was told."""
        with trio.fail_after(LONG_S):
            await self._store.wait_idle()
        with stopped_clock():
            await self._check_all()

    async def _check_all(self) -> None:
        await self._store.wait_idle()
        assert not self._model.violations, self._model.violations
        if self._store.held_at:
            return
        assert self._clients.pending_requests == 0, "a request hangs"
        facts = await StoreContents.read(self._store.log)
        claims, clients = self._expectations, self._clients
        claims.archive.check(facts)
        pasts = claims.archive.histories()
        for live in self._runtime.session_cache.live_sessions():
            folded = facts.sessions[live.id]
            assert live.session.state == folded.state, "memory is what the disk says"
            if live.session.conversation.missing_parent is None:
                assert live.session.history.messages == pasts.after_each_event(live.id)[-1]
            assert live.inbox == facts.inboxes[live.id]
            assert live.stream.last_seq == folded.state.last_seq
        for reader, _ in clients.readers:
            assert not reader.has_pending
        for _, watcher in (*clients.readers, *clients.idle_readers):
            watcher.check(facts.rows[watcher.session])
        for session, messages in self._model.open_prompts():
            assert messages == pasts.after_each_event(session)[-1], (
                "a model is asked with the conversation as it stands"
            )
        clients.last_seqs = {session: len(rows) for session, rows in facts.rows.items()}
        claims.check_all(facts, pasts, self._model.prompts)
        await claims.check_exports(self._store.log)

    async def _stop(self, operation: Restart) -> None:
        self._store.release(for_good=True)  # a store that lives has an outcome for every write
        with trio.fail_after(LONG_S):
            await self._runtime.stop(operation.grace_s)
            await self._store.wait_idle()
        assert self._clients.pending_requests == 0, "a request hangs"

    async def finish(self) -> StoreContents:
        """The store works, the model answers by itself: all that was accepted comes to its end, and is swept up."""
        self._store.release(for_good=True)
        self._store.failure = None
        self._model.set_auto_action()
        claims, clients = self._expectations, self._clients
        with trio.fail_after(LONG_S):
            await self._store.wait_idle()
            for session in claims.existing_sessions:
                await self._runtime.wait(session, {"idle", "error", "closed"})
            await trio.sleep(1)  # for a draft that should not be
            for reader, watcher in clients.idle_readers:
                while reader.has_pending:
                    await clients.poll_reader(reader, watcher, 512)
            await self._retention.sweep()
            await self._store.wait_idle()
        for number in range(len(claims.existing_sessions)):
            await self._execute_alone(ReadHistory(number))
        await self.settle_and_check()
        assert clients.request_scopes == [], "a client waits for what will not come"
        for session in claims.closed_at.keys() - claims.expired_at.keys():
            assert (await self._runtime.session(session)).state == "closed"
        for session in claims.expired_at:
            await self._retention.check_not_found(session)
        await self._check_subscribers()
        return await StoreContents.read(self._store.log)

    async def _check_subscribers(self) -> None:
        """Those who follow the daemon, wherever they were, and some who come only now."""
        claims, everything = self._expectations, self._runtime.global_stream
        newcomers = {since: Subscriber(since) for since in (0, 1, claims.archive.last_offset // 2)}
        with trio.fail_after(LONG_S):
            for subscriber in (*newcomers.values(), *claims.subscribers):
                reader = subscriber.subscription or subscriber.subscribe(everything, slow=True)
                while reader.has_pending:
                    await subscriber.read_batch(reader)
                subscriber.is_slow = False
        for since, newcomer in newcomers.items():
            newcomer.check_complete(claims.archive, since)
        for subscriber in claims.subscribers:
            subscriber.check(claims.archive)
