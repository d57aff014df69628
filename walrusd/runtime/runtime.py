"""The runtime: agents, tools as schemas, sessions. It works with or without the daemon around it."""

import contextlib
import time
from collections.abc import AsyncGenerator, Collection, Iterable
from types import TracebackType
from typing import Self

import structlog
import trio
from msgspec.structs import replace

from walrus_protocol.content import Content, State, ToolSchema, TurnError
from walrus_protocol.events import AnyEvent, AssistantMessage, Done, SessionCreated, ToolCallsComplete, decode_row
from walrus_protocol.methods import InterruptResult, SessionInfo, TurnResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent, AgentResponse
from walrusd.ports import Clock, Model
from walrusd.runtime.commands import interrupt_close, session_info
from walrusd.runtime.commands.fork_rewind import ForkRewindCommands
from walrusd.runtime.errors import translate_storage_errors
from walrusd.runtime.hook import Hook
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.registry.agents import AgentRegistry
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.sessions.idle_cache import IdleCache
from walrusd.runtime.sessions.live_session import LiveSession, SessionDependencies
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.runtime.streams.turn_stream import run_stream
from walrusd.runtime.turns.drafts import DraftSaver
from walrusd.runtime.turns.inbox import MessageRequest, accept_message
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.runtime.turns.worker import WorkerContext
from walrusd.runtime.turns.worker_pool import WorkerPool
from walrusd.session.recovery import OnRestart, choose_recovery_action
from walrusd.store.contract import Log, SessionFilter
from walrusd.store.memory import MemoryLog

logger = structlog.get_logger("walrusd.runtime")

FINAL_WRITES_TIMEOUT_S = 5.0
"""How long suspended turns may take to write their drafts."""


class Runtime:
    """Enter it (`async with`) before sessions are used; leaving suspends what still runs.

    `log` is where it writes everything down; without one it remembers only as long as it lives.
    """

    def __init__(
        self,
        model: Model,
        hook: Hook | None = None,
        *,
        log: Log | None = None,
        clock: Clock = time.time,
        max_running_turns: int = 64,
        idle_evict_s: float = 600,
        on_restart: OnRestart = "continue",
    ) -> None:
        """`idle_evict_s`: how long a session that nobody uses stays in memory; asked for, it is folded anew.

        `on_restart`: whether turns that an earlier process left open go on, or end as interrupted.
        """
        self.hook = hook or Hook()
        self.log: Log = log or MemoryLog()
        self._clock = clock
        self.stopping = False
        self._exited_with_error = False
        """It is left because of an error: of its turns nobody can say that none of them brought that about."""
        self._tools = ToolRegistry()
        self._agents = AgentRegistry(self._tools, self.hook)
        self._draft_saver = DraftSaver()
        self._idle_cache = IdleCache(idle_evict_s)
        self.global_stream = GlobalStream(
            self.log,
            clock,
            running_turns=lambda: self.running_turns,
            replies_in_progress=lambda: (
                one for live in self.session_cache.live_sessions() for one in live.replies_in_progress()
            ),
        )
        shared = SessionDependencies(
            log=self.log,
            clock=clock,
            on_event=self._on_event,
            on_state_mismatch=self._on_state_mismatch,
            global_stream=self.global_stream,
        )
        self.session_cache = SessionCache(shared, self._idle_cache)
        self._worker_context = WorkerContext(
            model=model,
            hook=self.hook,
            agents=self._agents,
            draft_saver=self._draft_saver,
            slots=trio.Semaphore(max_running_turns),
            is_stopping=lambda: self.stopping,
            is_clean_shutdown=lambda: self.stopping and not self._exited_with_error,
            on_restart=on_restart,
        )
        self._mismatch_cause: BaseException | None = None
        self._mismatch_found = trio.Event()
        self._stop_problem: Problem | None = None
        self.hook.on_register_tools(self._tools)

    async def __aenter__(self) -> Self:
        self.daemon_recorder = await DaemonRecorder.open(self.log, self.global_stream.publish_daemon)
        self._outer_nursery = trio.open_nursery()
        self._nursery = await (await self._outer_nursery.__aenter__()).start(self._run_nursery)
        self._nursery.start_soon(self._draft_saver.run, name="drafts")
        self._nursery.start_soon(self.global_stream.batched_wakeup.run, name="crowds of readers")
        self._nursery.start_soon(self._raise_on_state_mismatch, name="state against disk")
        self._nursery.start_soon(self._idle_cache.evict_loop, name="idle sessions")
        self._worker_pool = WorkerPool(self._nursery, self._worker_context, self._idle_cache)
        self.fork_rewind = ForkRewindCommands(self.log, self.session_cache, self._worker_pool, self.check_not_stopping)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._exited_with_error = isinstance(error, Exception)
        with trio.move_on_after(2 * FINAL_WRITES_TIMEOUT_S, shield=True):
            await self.stop(grace_s=0)
        return await self._outer_nursery.__aexit__(kind, error, trace)  # noqa: ASYNC102 - the nursery's own end, as it is

    async def _run_nursery(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """A nursery that `stop` can end while its caller goes on."""
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()

    def register_tool(self, schema: ToolSchema) -> None:
        """Raises ValueError where the name is taken."""
        self._tools.register_tool(schema)

    def unregister_tool(self, name: str) -> bool:
        return self._tools.unregister_tool(name)

    def add_agent(self, agent: Agent) -> Agent:
        """The agent as it now stands, with its snapshot of the registered tools."""
        return self._agents.add(agent)

    def swap(self, model: Model, hook: Hook, agents: Iterable[Agent]) -> None:
        """Turns that start from now on have these, with the tools of this hook; those that run keep what they have.

        A session whose agent is gone lives on, and says so until there is one again. What the hook raises changes
        nothing.
        """
        tools = ToolRegistry()
        hook.on_register_tools(tools)
        known = AgentRegistry(tools, hook)
        for agent in agents:
            known.add(agent)
        self.hook, self._tools, self._agents = hook, tools, known
        self._worker_context.model, self._worker_context.hook, self._worker_context.agents = model, hook, known

    def evict_idle_after(self, seconds: float) -> None:
        """As `idle_evict_s`, from now on."""
        self._idle_cache.set_max_idle(seconds)

    def agent(self, name: str) -> Agent:
        """Raises Problem agent_not_found."""
        return self._agents.get(name)

    def agents(self) -> tuple[Agent, ...]:
        return self._agents.all()

    def suspended_sessions(self) -> tuple[int, ...]:
        """The sessions whose turn waits for a store that can write again."""
        return tuple(live.id for live in self.session_cache.live_sessions() if live.suspended)

    @property
    def running_turns(self) -> int:
        return self._worker_pool.running_turns

    async def create_session(self, agent: str, created_by: str = "", *, title: str = "", key: str | None = None) -> int:
        """The id of a new session, durable. With a `key` that was used before, the session that it made.

        Raises Problem (agent_not_found, key_reused, shutting_down, storage_full, storage_failed).
        """
        self.check_not_stopping()
        created = SessionCreated(agent=agent, created_by=created_by, title=title)
        with translate_storage_errors():
            if key is not None:
                return await self.session_cache.create_once(created, key, lambda: self.agent(agent))
            self.agent(agent)
            return (await self.session_cache.create(created)).id

    async def close_session(self, session: int, *, force: bool = False, by: str = "") -> bool:
        """False where it was closed before. Raises Problem session_not_found."""
        live = await self.live_session(session)
        with translate_storage_errors(session=session):
            return await interrupt_close.close(live, self._worker_pool, force=force, by=by)

    async def interrupt(self, session: int, *, by: str = "") -> InterruptResult:
        """Raises Problem session_not_found."""
        live = await self.live_session(session)
        with translate_storage_errors(session=session):
            return await interrupt_close.interrupt(live, by=by)

    async def session(self, session: int) -> SessionInfo:
        """Raises Problem session_not_found."""
        with translate_storage_errors(session=session):
            return await session_info.get_session_info(self.log, self.session_cache, session)

    async def sessions(self, session_filter: SessionFilter | None = None) -> list[SessionInfo]:
        """Newest first."""
        with translate_storage_errors():
            return await session_info.list_session_infos(self.log, session_filter or SessionFilter())

    async def live_session(self, session: int) -> LiveSession:
        """The session, in memory from now on. Raises Problem session_not_found."""
        with translate_storage_errors(session=session):
            return await self.session_cache.get(session)

    async def send(self, session: int, message: MessageRequest) -> TurnHandle:
        """Accept a message: it is durable when this returns. Raises Problem."""
        self.check_not_stopping()
        live = await self.live_session(session)

        async def prepared() -> MessageRequest:
            agent = self.agent(live.session.state.agent)
            if not isinstance(message.content, str):
                return message
            return replace(message, content=await self.hook.preprocess(agent, message.content))

        turn = live.session.turn
        with translate_storage_errors(session=session, turn=turn.number if turn else None):
            ticket = await accept_message(live, message, prepared, self._worker_pool)
        if self._stop_problem:
            ticket.fail(self._stop_problem)  # accepted as the last: nobody else will tell
        return ticket

    async def send_to(self, session: int, content: Content, sender: str = "") -> AgentResponse:
        """Send, and wait for the turn to end. Raises Problem."""
        ticket = await self.send(session, MessageRequest(content=content, sender=sender))
        result = await ticket.wait_result()
        return AgentResponse(
            final_response=result.text,
            iterations=result.rounds,
            stop_reason=result.stop_reason,
            steps=await self._count_steps(result),
        )

    async def _count_steps(self, result: TurnResult) -> int:
        """The debts that a turn has paid, counted in its log."""
        steps, since = 0, result.first_seq - 1
        while since < result.last_seq:
            rows = await self.log.events(result.session, since, result.last_seq - since)
            steps += sum(isinstance(decode_row(row.body), AssistantMessage | ToolCallsComplete | Done) for row in rows)
            since = rows[-1].seq
        return steps

    @trio.as_safe_channel
    async def stream_to(self, session: int, content: Content, sender: str = "") -> AsyncGenerator[AnyEvent, None]:
        """Send, and see the turn's events as they come; the last is its `done`.

        It never raises for a missing session or agent: that is one `done {error}`.
        """
        try:
            live = await self.live_session(session)
            ticket = await self.send(session, MessageRequest(content=content, sender=sender))
            async with contextlib.aclosing(run_stream(live, ticket)) as events:
                async for event in events:
                    yield event  # noqa: ASYNC119 - as_safe_channel sees to the clean-up
        except Problem as problem:
            error = TurnError("internal", problem.message, problem.hint)
            yield Done(session=session, stop_reason="error", error=error)

    async def wait(self, session: int, states: Collection[State]) -> State:
        """The first of `states` that the session is in. It rests only when nothing is queued. Raises Problem."""
        live = await self.live_session(session)
        while True:
            state = live.session.state.state
            resting = state in {"idle", "error"} and live.inbox
            if state is not None and state in states and not resting:
                return state
            if state == "closed":
                raise Problem("session_closed", f"session {session} is closed", "It will be in no other state again.")
            await live.stream.wait_next_event()

    async def recover(self) -> None:
        """Take up the turns that an earlier process left open, and what is queued; those that only end have ended."""
        found, tickets = [], []
        for number in await self.log.unfinished_sessions():
            try:
                found.append(await self.live_session(number))
            except Problem as unreadable:
                logger.error("session left alone", session=number, error=unreadable.message, hint=unreadable.hint)
        for live in found:  # all at once: among turns that go on already, the reading would take as long as they do
            if (turn := live.session.turn) and choose_recovery_action(
                turn, live.draft, self._worker_context.on_restart
            ) != "go on":
                tickets.append(live.create_turn_handle())
            self._worker_pool.ensure_worker(live)
        for ticket in tickets:
            with contextlib.suppress(Problem):  # the store cannot record the end now: the worker goes on trying
                await ticket.wait_result()

    async def stop(self, grace_s: float) -> None:
        """Take no new turns, let running ones end within `grace_s`, then suspend them: draft kept, no `done`."""
        self.stopping = True
        for live in self.session_cache.live_sessions():
            live.retry_now.set()
        with trio.move_on_after(grace_s):
            await self._worker_pool.wait_all_ended()
        self._nursery.cancel_scope.cancel()
        with trio.move_on_after(FINAL_WRITES_TIMEOUT_S, shield=True):
            await self._worker_pool.wait_all_ended()
        self._stop_problem = Problem(
            "shutting_down", "walrusd is stopping", "The session lives on; send again when it is back."
        )
        for live in self.session_cache.live_sessions():
            live.fail_all_handles(self._stop_problem)

    def check_not_stopping(self) -> None:
        if self.stopping:
            raise Problem("shutting_down", "walrusd is stopping", "Send again when it is back.")

    def _on_event(self, agent: str, event: AnyEvent) -> None:
        try:
            self.hook.on_event(agent, event)
        except Exception:
            # The event is a fact already; a hook that cannot look at it must not undo that.
            logger.exception("hook failed", event_type=type(event).__name__, session=event.session)

    def _on_state_mismatch(self, cause: BaseException) -> None:
        self._mismatch_cause = self._mismatch_cause or cause
        self._mismatch_found.set()

    async def _raise_on_state_mismatch(self) -> None:
        """End the runtime, loudly, when its state is no longer what the disk says: a restart folds it anew."""
        await self._mismatch_found.wait()
        raise RuntimeError("the state of a session differs from its log") from self._mismatch_cause
