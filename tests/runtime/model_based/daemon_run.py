"""One run of a daemon, from start to stop or power cut, with concurrent clients."""

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
"""Maximum seconds of any wait; longer than any retry.

The mock clock jumps, or runs a thousand times too fast.
"""


@contextmanager
def stopped_clock() -> Iterator[None]:
    """Stops the mock clock, so that contents which are read in several steps do not change in between."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    rate, clock.rate = clock.rate, 0.0
    try:
        yield
    finally:
        clock.rate = rate


class DaemonRun:
    """One runtime with its clients, store and model."""

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
        """Recovers the runtime, and creates the first session of the scenario."""
        with trio.fail_after(LONG_S):
            await self._runtime.recover()
            if not self._expectations.sessions and not self._store.failure:
                await self._clients.create(Create(None))

    async def run(self, groups: list[list[Operation]]) -> Restart | PowerCut | None:
        """Executes the groups of operations; returns what ended the run, or None if no groups are left."""
        while groups:
            operations = groups.pop(0)
            for operation in operations:
                match operation:
                    case Fork() | Rewind() | MakeCheckpoint() | ReadHistory() | ExpireSessions() if (
                        len(operations) == 1
                    ):
                        await self._execute_alone(operation)
                    case Restart():
                        await self._stop(operation)
                        return operation
                    case PowerCut():
                        for _ in range(operation.steps):
                            await trio.lowlevel.checkpoint()
                        await trio.sleep(operation.after_s)
                        return operation
                    case _:
                        await self._execute(operation)
            await self.settle_and_check()
            self._model.auto_action = None
        return None

    async def _execute(self, operation: Operation) -> None:  # noqa: C901 - one line per operation
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
            case AnswerAutomatically(action):
                self._model.set_auto_action(action)
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
                raise AssertionError("these end a daemon run")
            case _:
                if self._expectations.sessions:
                    self._execute_on_session(operation)

    def _execute_on_session(self, operation: SessionOperation) -> None:
        """Starts an operation on one session."""
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
        """Executes an operation while nothing else happens, so that it has only one right result."""
        with trio.fail_after(LONG_S), stopped_clock():
            await self._store.wait_idle()
            if self._store.held_at or self._store.failure or not self._expectations.sessions:
                await self._execute(operation)
                return
            if isinstance(operation, ExpireSessions):
                expires_all = operation.keep_s == 0 and not operation.over_quota
                await (
                    self._retention.check_all_expired(operation) if expires_all else self._retention.expire(operation)
                )
                return
            contents = await StoreContents.read(self._store.log)
            request = await self._clients.send_history_request(
                operation, self._expectations.pick_session(operation.session)
            )
            assert actual_outcome(request) == expected_outcome(
                request, contents, self._expectations.archive.histories()
            )

    async def settle_and_check(self) -> None:
        """Waits until everything is idle, then checks memory, disk and what was published against each other."""
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
        contents = await StoreContents.read(self._store.log)
        expectations, clients = self._expectations, self._clients
        expectations.archive.check(contents)
        histories = expectations.archive.histories()
        for live in self._runtime.session_cache.live_sessions():
            stored = contents.sessions[live.id]
            assert live.session.state == stored.state, "the state in memory equals the log on disk"
            if live.session.conversation.missing_parent is None:
                assert live.session.history.messages == histories.after_each_event(live.id)[-1]
            assert live.inbox.entries == contents.inboxes[live.id]
            assert live.stream.last_seq == stored.state.last_seq
        for subscription, _ in clients.readers:
            assert not subscription.has_pending
        for _, watcher in (*clients.readers, *clients.idle_readers):
            watcher.check(contents.rows[watcher.session])
        for session, messages in self._model.open_prompts():
            assert messages == histories.after_each_event(session)[-1], (
                "the prompt of a model is the current conversation"
            )
        clients.last_seqs = {session: len(rows) for session, rows in contents.rows.items()}
        expectations.check_all(contents, histories, self._model.prompts)
        await expectations.check_exports(self._store.log)

    async def _stop(self, operation: Restart) -> None:
        self._store.release(for_good=True)  # a working store has an outcome for every write
        with trio.fail_after(LONG_S):
            await self._runtime.stop(operation.grace_s)
            await self._store.wait_idle()
        assert self._clients.pending_requests == 0, "a request hangs"

    async def finish(self) -> StoreContents:
        """Lets every accepted turn end, with working store and model, then sweeps and checks everything.

        Returns the contents of the store.
        """
        self._store.release(for_good=True)
        self._store.failure = None
        self._model.set_auto_action()
        expectations, clients = self._expectations, self._clients
        with trio.fail_after(LONG_S):
            await self._store.wait_idle()
            for session in expectations.existing_sessions:
                await self._runtime.wait(session, {"idle", "error", "closed"})
            await trio.sleep(1)  # a wrong draft would be saved by then
            for subscription, watcher in clients.idle_readers:
                while subscription.has_pending:
                    await clients.poll_reader(subscription, watcher, 512)
            await self._retention.sweep()
            await self._store.wait_idle()
        for index in range(len(expectations.existing_sessions)):
            await self._execute_alone(ReadHistory(index))
        await self.settle_and_check()
        assert clients.request_scopes == [], "a client waits although everything has ended"
        for session in expectations.closed_at.keys() - expectations.expired_at.keys():
            assert (await self._runtime.session(session)).state == "closed"
        for session in expectations.expired_at:
            await self._retention.check_not_found(session)
        await self._check_subscribers()
        return await StoreContents.read(self._store.log)

    async def _check_subscribers(self) -> None:
        """Checks the subscribers to the whole daemon, and new ones that start at earlier offsets."""
        expectations, global_stream = self._expectations, self._runtime.global_stream
        newcomers = {since: Subscriber(since) for since in (0, 1, expectations.archive.last_offset // 2)}
        with trio.fail_after(LONG_S):
            for subscriber in (*newcomers.values(), *expectations.subscribers):
                subscription = subscriber.subscription or subscriber.subscribe(global_stream, slow=True)
                while subscription.has_pending:
                    await subscriber.read_batch(subscription)
                subscriber.is_slow = False
        for since, newcomer in newcomers.items():
            newcomer.check_complete(expectations.archive, since)
        for subscriber in expectations.subscribers:
            subscriber.check(expectations.archive)
