"""The runtime runs the turns of agents in sessions. It also works as a library, without the daemon."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Collection
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
from walrusd.runtime.commands.recover import recover_sessions
from walrusd.runtime.errors import attach_to_storage_errors
from walrusd.runtime.hook import Hook
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.registry.agents import AgentRegistry
from walrusd.runtime.sessions.live_session import SessionDependencies
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.runtime.streams.turn_stream import run_stream
from walrusd.runtime.turns.drafts import DraftSaver
from walrusd.runtime.turns.inbox import MessageRequest, accept_message
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.runtime.turns.worker import WorkerContext
from walrusd.runtime.turns.worker_pool import WorkerPool
from walrusd.session.recovery import OnRestart
from walrusd.store.contract import Log
from walrusd.store.sqlite import SqliteLog
from walrusd.store.tables.session import SessionFilter

logger = structlog.get_logger("walrusd.runtime")

FINAL_WRITES_TIMEOUT_S = 5.0
"""Maximum seconds that suspended turns may take to write their drafts."""


class Runtime:
    """Agents and their sessions. Enter it (`async with`) before use; leaving it suspends running turns.

    `log` is the durable store. Without one, sessions are kept in memory and are lost with the process.
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
        redact: Callable[[str], str] = lambda text: text,
    ) -> None:
        """Registers the tools of the hook. Nothing runs before the runtime is entered.

        `idle_evict_s`: seconds that an unused session stays in memory; the next use loads it from the log again.
        `on_restart`: whether turns that an earlier process left open are continued, or end as interrupted.
        `redact`: replaces secrets in the error of a turn before it is recorded.
        """
        self.log: Log = log or SqliteLog.in_memory()
        self._clock = clock
        self._agents = AgentRegistry(ComposedHook.of(hook or Hook()))
        self._draft_saver = DraftSaver()
        self.global_stream = GlobalStream(
            self.log,
            clock,
            running_turns=lambda: self.running_turns,
            replies_in_progress=lambda: (
                reply for live in self.session_cache.live_sessions() for reply in live.replies_in_progress()
            ),
        )
        self._session_deps = SessionDependencies(
            log=self.log,
            clock=clock,
            hook=self._agents.hook,
            on_state_mismatch=self._on_state_mismatch,
            global_stream=self.global_stream,
        )
        self.session_cache = SessionCache(self._session_deps, idle_evict_s)
        self._worker_context = WorkerContext(
            model=model,
            agents=self._agents,
            draft_saver=self._draft_saver,
            slots=trio.Semaphore(max_running_turns),
            on_restart=on_restart,
            redact=redact,
        )
        self._mismatch_cause: BaseException | None = None
        self._mismatch_found = trio.Event()
        self._stop_problem: Problem | None = None

    async def __aenter__(self) -> Self:
        self.daemon_recorder = await DaemonRecorder.open(self.log, self.global_stream.publish_daemon)
        self._outer_nursery = trio.open_nursery()
        self._nursery = await (await self._outer_nursery.__aenter__()).start(self._run_nursery)
        self._nursery.start_soon(self._draft_saver.run, name="draft saver")
        self._nursery.start_soon(self.global_stream.batched_wakeup.run, name="batched wake-ups")
        self._nursery.start_soon(self._raise_on_state_mismatch, name="state mismatch")
        self._nursery.start_soon(self.session_cache.evict_loop, name="idle session eviction")
        self._worker_pool = WorkerPool(self._nursery, self._worker_context, self.session_cache)
        self.fork_rewind = ForkRewindCommands(self.log, self.session_cache, self._worker_pool, self.check_not_stopping)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._worker_context.is_clean_shutdown = not isinstance(error, Exception)
        with trio.move_on_after(2 * FINAL_WRITES_TIMEOUT_S, shield=True):
            await self.stop(grace_s=0)
        return await self._outer_nursery.__aexit__(kind, error, trace)  # noqa: ASYNC102 - the nursery ends as it would by itself

    async def _run_nursery(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Runs a nursery that `stop` can cancel while the caller of `stop` continues."""
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()

    def register_tool(self, schema: ToolSchema) -> None:
        """Adds a tool for agents that are added from now on. Raises ValueError if the name is taken."""
        self._agents.tools.register_tool(schema)

    def unregister_tool(self, name: str) -> bool:
        """Removes a tool for agents that are added from now on. Returns False if there is no such tool."""
        return self._agents.tools.unregister_tool(name)

    def add_agent(self, agent: Agent) -> Agent:
        """Adds an agent, or replaces the one of that name. Returns it with its snapshot of the tools."""
        return self._agents.add(agent)

    @property
    def hook(self) -> ComposedHook:
        return self._agents.hook

    def swap(self, model: Model, agents: AgentRegistry) -> None:
        """Replaces model, hook, tools and agents for turns that start from now on; running turns keep theirs.

        A session whose agent was removed is kept: sends to it raise agent_not_found until there is one again.
        """
        self._agents = agents
        self._session_deps.hook = agents.hook
        self._worker_context.model, self._worker_context.agents = model, agents

    def refresh_tools(self) -> None:
        """Asks the hook for its tools again; turns that start from now on are offered those.

        Tools that were added by `register_tool` are dropped, as by `swap`.
        """
        hook = ComposedHook(*self.hook.hooks, observers=self.hook.observers)
        agents = AgentRegistry(hook, self._agents.definitions())
        self.swap(self._worker_context.model, agents)

    def evict_idle_after(self, seconds: float) -> None:
        """Changes `idle_evict_s`, also for sessions that are idle already."""
        self.session_cache.set_max_idle(seconds)

    def agent(self, name: str) -> Agent:
        """Returns the agent of that name. Raises Problem agent_not_found."""
        return self._agents.get(name)

    def agents(self) -> tuple[Agent, ...]:
        return self._agents.all()

    def suspended_sessions(self) -> tuple[int, ...]:
        """Returns the ids of the sessions whose turn waits until the store can write again."""
        return tuple(live.id for live in self.session_cache.live_sessions() if live.admission.state == "suspended")

    @property
    def running_turns(self) -> int:
        return self._worker_pool.running_turns

    async def create_session(self, agent: str, created_by: str = "", *, title: str = "", key: str | None = None) -> int:
        """Creates a durable session and returns its id. A repeated `key` returns the session created first.

        Raises Problem (agent_not_found, key_reused, shutting_down, storage_full, storage_failed).
        """
        self.check_not_stopping()
        created = SessionCreated(agent=agent, created_by=created_by, title=title)
        if key is not None:
            return await self.session_cache.create_once(created, key, lambda: self.agent(agent))
        self.agent(agent)
        return await self.session_cache.create(created)

    async def close_session(self, session: int, *, force: bool = False, by: str = "") -> bool:
        """Closes a session; returns False if a close was accepted before. Raises Problem session_not_found."""
        async with self.session_cache.lease(session) as live:
            return await interrupt_close.close(live, self._worker_pool, force=force, by=by)

    async def interrupt(self, session: int, *, by: str = "") -> InterruptResult:
        """Interrupts the running turn, if there is one. Raises Problem session_not_found."""
        async with self.session_cache.lease(session) as live:
            return await interrupt_close.interrupt(live, by=by)

    async def session(self, session: int) -> SessionInfo:
        """Returns the description of a session. Raises Problem session_not_found."""
        return await session_info.get_session_info(self.log, self.session_cache, session)

    async def sessions(self, session_filter: SessionFilter | None = None) -> list[SessionInfo]:
        """Returns the descriptions of the sessions that match, newest first."""
        return await session_info.list_session_infos(self.log, session_filter or SessionFilter())

    async def send(self, session: int, message: MessageRequest) -> TurnHandle:
        """Accepts a message, durable on return, and returns the handle of its turn. Raises Problem."""
        self.check_not_stopping()
        async with self.session_cache.lease(session) as live:

            async def prepare() -> MessageRequest:
                agent = self._agents.get(live.session.state.agent)
                if not isinstance(message.content, str):
                    return message
                return replace(message, content=await self.hook.preprocess(agent, message.content))

            turn = live.session.turn
            with attach_to_storage_errors(session=session, turn=turn.number if turn else None):
                handle = await accept_message(live, message, prepare, self._worker_pool)
        if self._stop_problem:
            handle.fail(self._stop_problem)  # accepted after `stop` had failed the other handles
        return handle

    async def send_to(self, session: int, content: Content, sender: str = "") -> AgentResponse:
        """Sends a message and waits for its turn to end. Raises Problem."""
        handle = await self.send(session, MessageRequest(content=content, sender=sender))
        result = await handle.wait_result()
        return AgentResponse(
            final_response=result.text,
            iterations=result.rounds,
            stop_reason=result.stop_reason,
            steps=await self._count_steps(result),
        )

    async def _count_steps(self, result: TurnResult) -> int:
        """Counts the steps of the agent loop in a turn, from the turn's events in the log."""
        steps, since = 0, result.first_seq - 1
        while since < result.last_seq:
            rows = await self.log.events(result.session, since, result.last_seq - since)
            steps += sum(isinstance(decode_row(row.body), AssistantMessage | ToolCallsComplete | Done) for row in rows)
            since = rows[-1].seq
        return steps

    @trio.as_safe_channel
    async def stream_to(self, session: int, content: Content, sender: str = "") -> AsyncGenerator[AnyEvent, None]:
        """Sends a message and yields the events of its turn as they come; the last is its `done`.

        Raises no Problem: a missing session or agent, for example, yields one `done` with an error.
        """
        try:
            async with self.session_cache.lease(session) as live:
                handle = await self.send(session, MessageRequest(content=content, sender=sender))
                async with contextlib.aclosing(run_stream(live, handle)) as events:
                    async for event in events:
                        yield event  # noqa: ASYNC119 - as_safe_channel cleans up
        except Problem as problem:
            error = TurnError("internal", problem.message, problem.hint)
            yield Done(session=session, stop_reason="error", error=error)

    async def wait(self, session: int, states: Collection[State]) -> State:
        """Waits until the session is in one of `states`, and returns that state. Raises Problem.

        `idle` and `error` count only if no message is queued.
        """
        async with self.session_cache.lease(session) as live:
            while True:
                state = live.session.state.state
                about_to_run = state in {"idle", "error"} and live.inbox.entries
                if state is not None and state in states and not about_to_run:
                    return state
                if state == "closed":
                    raise Problem("session_closed", f"session {session} is closed", "A closed session stays closed.")
                await live.stream.wait_next_event()

    async def recover(self) -> None:
        """Continues the turns that an earlier process left open, and starts the queued ones.

        Turns that are not continued have ended on return, unless the store cannot record their end now.
        """
        await recover_sessions(self.log, self.session_cache, self._worker_pool, self._worker_context.on_restart)

    async def stop(self, grace_s: float) -> None:
        """Starts no new turns, gives running ones `grace_s` seconds to end, then suspends them.

        A suspended turn has its draft saved and no `done` recorded.
        """
        self._worker_context.stopping = True
        for live in self.session_cache.live_sessions():
            live.admission.retry_store()
        with trio.move_on_after(grace_s):
            await self._worker_pool.wait_all_ended()
        self._nursery.cancel_scope.cancel()
        with trio.move_on_after(FINAL_WRITES_TIMEOUT_S, shield=True):
            await self._worker_pool.wait_all_ended()
        self._stop_problem = Problem(
            "shutting_down", "walrusd is stopping", "The session is kept; send again when walrusd is running again."
        )
        for live in self.session_cache.live_sessions():
            live.handles.fail_all(self._stop_problem)
        self._worker_pool.mark_stopped()

    def check_not_stopping(self) -> None:
        """Raises Problem shutting_down after `stop` was called."""
        if self._worker_context.stopping:
            raise Problem("shutting_down", "walrusd is stopping", "Send again when it is running again.")

    def _on_state_mismatch(self, cause: BaseException) -> None:
        self._mismatch_cause = self._mismatch_cause or cause
        self._mismatch_found.set()

    async def _raise_on_state_mismatch(self) -> None:
        """Ends the runtime with an error if a state differs from its log; a restart loads the log again."""
        await self._mismatch_found.wait()
        raise RuntimeError("the state of a session differs from its log") from self._mismatch_cause
