"""The runtime: agents, tools as schemas, sessions. It works with or without the daemon around it."""

import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Collection, Iterable
from types import TracebackType
from typing import Self

import msgspec
import structlog
import trio
from msgspec.structs import replace

from walrus_protocol.content import Content, State, ToolSchema, TurnError
from walrus_protocol.events import AnyEvent, AssistantMessage, Done, SessionCreated, ToolCallsComplete, decode_row
from walrus_protocol.methods import Interrupted, SessionInfo, TurnResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent, AgentResponse
from walrusd.ports import Clock, Model
from walrusd.runtime import ending, listing
from walrusd.runtime.agents import Agents
from walrusd.runtime.branching import Branching
from walrusd.runtime.drafts import Drafts
from walrusd.runtime.everything import Everything
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.hook import Hook
from walrusd.runtime.inbox import Incoming, accept
from walrusd.runtime.kept import Kept
from walrusd.runtime.portable.importing import Importing
from walrusd.runtime.schemas import ToolRegistry
from walrusd.runtime.sessions import LiveSession, Sessions, Shared
from walrusd.runtime.stream import run_stream
from walrusd.runtime.tickets import Ticket
from walrusd.runtime.told import storage_told
from walrusd.runtime.worker import Workshop
from walrusd.runtime.workers import Workers
from walrusd.session.mend import OnRestart, fate
from walrusd.store.log import Filter, Log, Sent
from walrusd.store.memory import MemoryLog

logger = structlog.get_logger("walrusd.runtime")

LAST_WRITES_S = 5.0
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
        self._falling = False
        """It is left because of an error: of its turns nobody can say that none of them brought that about."""
        self._tools = ToolRegistry()
        self._agents = Agents(self._tools, self.hook)
        self._drafts = Drafts()
        self._kept = Kept(idle_evict_s)
        self.everything = Everything(
            self.log,
            clock,
            running=lambda: self.running,
            speaking=lambda: (one for live in self.sessions_in_memory.live() for one in live.speaking()),
        )
        shared = Shared(log=self.log, clock=clock, see=self._see, broken=self._broken, everything=self.everything)
        self.sessions_in_memory = Sessions(shared, self._kept)
        self._shop = Workshop(
            model=model,
            hook=self.hook,
            agents=self._agents,
            drafts=self._drafts,
            slots=trio.Semaphore(max_running_turns),
            stopping=lambda: self.stopping,
            in_order=lambda: self.stopping and not self._falling,
            on_restart=on_restart,
        )
        self._bug: BaseException | None = None
        self._broke = trio.Event()
        self._stopped: Problem | None = None
        self._creating: dict[str, trio.Event] = {}
        self.hook.on_register_tools(self._tools)

    async def __aenter__(self) -> Self:
        self.facts = await DaemonFacts.open(self.log, self.everything.publish_daemon)
        self._manager = trio.open_nursery()
        self._nursery = await (await self._manager.__aenter__()).start(self._house)
        self._nursery.start_soon(self._drafts.keep, name="drafts")
        self._nursery.start_soon(self.everything.crowd.keep, name="crowds of readers")
        self._nursery.start_soon(self._watch, name="state against disk")
        self._nursery.start_soon(self._kept.age, name="idle sessions")
        self._workers = Workers(self._nursery, self._shop, self._kept)
        self.branches = Branching(self.log, self.sessions_in_memory, self._workers, self._refuse_when_stopping)
        self.imports = Importing(
            self.log, self.facts, self.agent, self._refuse_when_stopping, clock=self._clock, see=self._see
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._falling = isinstance(error, Exception)
        with trio.move_on_after(2 * LAST_WRITES_S, shield=True):
            await self.stop(grace_s=0)
        return await self._manager.__aexit__(kind, error, trace)  # noqa: ASYNC102 - the nursery's own end, as it is

    async def _house(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
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
        known = Agents(tools, hook)
        for agent in agents:
            known.add(agent)
        self.hook, self._tools, self._agents = hook, tools, known
        self._shop.model, self._shop.hook, self._shop.agents = model, hook, known

    def evict_idle_after(self, seconds: float) -> None:
        """As `idle_evict_s`, from now on."""
        self._kept.let_go_after(seconds)

    def agent(self, name: str) -> Agent:
        """Raises Problem agent_not_found."""
        return self._agents.get(name)

    def agents(self) -> tuple[Agent, ...]:
        return self._agents.all()

    def suspended(self) -> tuple[int, ...]:
        """The sessions whose turn waits for a store that can write again."""
        return tuple(live.id for live in self.sessions_in_memory.live() if live.suspended)

    @property
    def running(self) -> int:
        return self._workers.running

    async def create_session(self, agent: str, created_by: str = "", *, title: str = "", key: str | None = None) -> int:
        """The id of a new session, durable. With a `key` that was used before, the session that it made.

        Raises Problem (agent_not_found, key_reused, shutting_down, storage_full, storage_failed).
        """
        self._refuse_when_stopping()
        created = SessionCreated(agent=agent, created_by=created_by, title=title)
        with storage_told():
            if key is not None:
                return await self._create_once(created, key)
            self.agent(agent)
            return (await self.sessions_in_memory.create(created)).id

    async def close_session(self, session: int, *, force: bool = False, by: str = "") -> bool:
        """False where it was closed before. Raises Problem session_not_found."""
        live = await self.live(session)
        with storage_told(session=session):
            return await ending.close(live, self._workers, force=force, by=by)

    async def interrupt(self, session: int, *, by: str = "") -> Interrupted:
        """Raises Problem session_not_found."""
        live = await self.live(session)
        with storage_told(session=session):
            return await ending.interrupt(live, by=by)

    async def session(self, session: int) -> SessionInfo:
        """Raises Problem session_not_found."""
        with storage_told(session=session):
            return await listing.info(self.log, self.sessions_in_memory, session)

    async def sessions(self, wanted: Filter | None = None) -> list[SessionInfo]:
        """Newest first."""
        with storage_told():
            return await listing.infos(self.log, wanted or Filter())

    async def live(self, session: int) -> LiveSession:
        """The session, in memory from now on. Raises Problem session_not_found."""
        with storage_told(session=session):
            return await self.sessions_in_memory.get(session)

    async def send(self, session: int, message: Incoming) -> Ticket:
        """Accept a message: it is durable when this returns. Raises Problem."""
        self._refuse_when_stopping()
        live = await self.live(session)

        async def prepared() -> Incoming:
            agent = self.agent(live.session.outline.agent)
            if not isinstance(message.content, str):
                return message
            return replace(message, content=await self.hook.preprocess(agent, message.content))

        turn = live.session.turn
        with storage_told(session=session, turn=turn.number if turn else None):
            ticket = await accept(live, message, prepared, self._workers)
        if self._stopped:
            ticket.fail(self._stopped)  # accepted as the last: nobody else will tell
        return ticket

    async def send_to(self, session: int, content: Content, sender: str = "") -> AgentResponse:
        """Send, and wait for the turn to end. Raises Problem."""
        ticket = await self.send(session, Incoming(content=content, sender=sender))
        result = await ticket.outcome()
        return AgentResponse(
            final_response=result.text,
            iterations=result.rounds,
            stop_reason=result.stop_reason,
            steps=await self._steps(result),
        )

    async def _steps(self, result: TurnResult) -> int:
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
            live = await self.live(session)
            ticket = await self.send(session, Incoming(content=content, sender=sender))
            async with contextlib.aclosing(run_stream(live, ticket)) as events:
                async for event in events:
                    yield event  # noqa: ASYNC119 - as_safe_channel sees to the clean-up
        except Problem as problem:
            error = TurnError("internal", problem.message, problem.hint)
            yield Done(session=session, stop_reason="error", error=error)

    async def wait(self, session: int, states: Collection[State]) -> State:
        """The first of `states` that the session is in. It rests only when nothing is queued. Raises Problem."""
        live = await self.live(session)
        while True:
            state = live.session.outline.state
            resting = state in {"idle", "error"} and live.inbox
            if state is not None and state in states and not resting:
                return state
            if state == "closed":
                raise Problem("session_closed", f"session {session} is closed", "It will be in no other state again.")
            await live.feed.change()

    async def recover(self) -> None:
        """Take up the turns that an earlier process left open, and what is queued; those that only end have ended."""
        found, tickets = [], []
        for number in await self.log.unfinished():
            try:
                found.append(await self.live(number))
            except Problem as unreadable:
                logger.error("session left alone", session=number, error=unreadable.message, hint=unreadable.hint)
        for live in found:  # all at once: among turns that go on already, the reading would take as long as they do
            if (turn := live.session.turn) and fate(turn, live.draft, self._shop.on_restart) != "go on":
                tickets.append(live.wait_for_turn())
            self._workers.rouse(live)
        for ticket in tickets:
            with contextlib.suppress(Problem):  # the store cannot record the end now: the worker goes on trying
                await ticket.outcome()

    async def stop(self, grace_s: float) -> None:
        """Take no new turns, let running ones end within `grace_s`, then suspend them: draft kept, no `done`."""
        self.stopping = True
        for live in self.sessions_in_memory.live():
            live.poke.set()
        with trio.move_on_after(grace_s):
            await self._workers.all_left()
        self._nursery.cancel_scope.cancel()
        with trio.move_on_after(LAST_WRITES_S, shield=True):
            await self._workers.all_left()
        self._stopped = Problem(
            "shutting_down", "walrusd is stopping", "The session lives on; send again when it is back."
        )
        for live in self.sessions_in_memory.live():
            live.refuse_all(self._stopped)

    async def _create_once(self, created: SessionCreated, key: str) -> int:
        digest = hashlib.sha256(msgspec.json.encode([created.agent, created.created_by, created.title])).digest()
        while (twin := self._creating.get(key)) is not None:
            await twin.wait()
        self._creating[key] = trio.Event()
        try:
            if known := await self.log.created_with(key):
                session, digest_then = known
                if digest_then != digest:
                    raise Problem("key_reused", f"key {key!r} was used for another session", "Use a new key.")
                return session
            self.agent(created.agent)
            return (await self.sessions_in_memory.create(created, Sent(key=key, digest=digest))).id
        finally:
            self._creating.pop(key).set()

    def _refuse_when_stopping(self) -> None:
        if self.stopping:
            raise Problem("shutting_down", "walrusd is stopping", "Send again when it is back.")

    def _see(self, agent: str, event: AnyEvent) -> None:
        try:
            self.hook.on_event(agent, event)
        except Exception:
            # The event is a fact already; a hook that cannot look at it must not undo that.
            logger.exception("hook failed", event_type=type(event).__name__, session=event.session)

    def _broken(self, bug: BaseException) -> None:
        self._bug = self._bug or bug
        self._broke.set()

    async def _watch(self) -> None:
        """End the runtime, loudly, when its state is no longer what the disk says: a restart folds it anew."""
        await self._broke.wait()
        raise RuntimeError("the state of a session differs from its log") from self._bug
