"""Power that is cut at any write of a turn, and again at any write of the recovery: nothing is lost or done twice."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import pytest
import trio
import trio.testing

from tests.fakes.call_pairing import has_paired_calls
from tests.fakes.model import FakeModel, calls, in_turn, replies
from walrus_protocol.content import ToolCall, ToolSchema, plain_text
from walrus_protocol.events import AnySessionEvent, Done, ToolResult, ToolStarted, UserMessage, decode_row
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.agent.decide import decide
from walrusd.ports import ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.session.recovery import OnRestart
from walrusd.session.session import Session
from walrusd.store.contract import SessionFilter, StorageFailed, Write
from walrusd.store.memory import MemoryLog
from walrusd.store.memory_tables import MemoryTables

CutMoment = Literal["before", "after"]
UNLIMITED_WRITES = 1000
"""More writes than a life has."""
WALRUS = Agent(name="walrus")
TOUCH = ToolSchema(name="touch", description="Touch.", parameters={"type": "object"})


class PowerCutMemoryLog(MemoryLog):
    """The power goes before its n-th write gets to the disk, or when it is there and nobody has been told."""

    def __init__(self, disk: MemoryTables, writes: int, when: CutMoment) -> None:
        super().__init__(disk)
        self.writes_left = writes
        self.power_is_off = trio.Event()
        self._when = when

    def submit(self, write: Write) -> None:
        self.writes_left -= 1
        if self.writes_left == 0:
            if self._when == "before":
                self._cut_power()
            else:
                write.committed = lambda _: self._cut_power(write)
        super().submit(write)

    def _cut_power(self, write: Write | None = None) -> None:
        MemoryLog(self.tables)
        self.power_is_off.set()
        if write:
            write.failed(StorageFailed("nobody is left to be told"))


@dataclass
class RecoveryScenario:
    """What outlives the daemon: the disk, what tools have done to the world, and what clients were told."""

    on_restart: OnRestart = "continue"
    disk: MemoryTables = field(default_factory=MemoryTables)
    touched: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    results: dict[str, TurnResult] = field(default_factory=dict)
    ids: Iterator[int] = field(default_factory=count)

    async def run(self, writes: int = UNLIMITED_WRITES, when: CutMoment = "before") -> int:
        """One life, of so many writes at most: a message that needs tools, and one that waits behind it.

        How many writes it had.
        """
        log = PowerCutMemoryLog(self.disk, writes, when)
        tools = [ToolCall(f"c{next(self.ids)}", "touch", {}) for _ in range(2)]
        model = FakeModel(in_turn(calls(*tools), *[replies("done")] * 9))
        touching = TouchHook(self, log)
        async with Runtime(model, touching, log=log, clock=trio.current_time, on_restart=self.on_restart) as runtime:
            runtime.add_agent(WALRUS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_clients, runtime, log, nursery.cancel_scope)
                await log.power_is_off.wait()
                nursery.cancel_scope.cancel()
        return writes - log.writes_left

    async def _run_clients(self, runtime: Runtime, log: PowerCutMemoryLog, all_done: trio.CancelScope) -> None:
        try:
            await runtime.recover()
            session = await runtime.create_session("walrus", key="the only one")
            async with trio.open_nursery() as nursery:
                for key in ("first", "second"):
                    nursery.start_soon(self._send, runtime, session, key, log)
                    await trio.testing.wait_all_tasks_blocked()
        except Problem:
            assert log.power_is_off.is_set()
            return
        if not log.power_is_off.is_set():
            all_done.cancel()

    async def _send(self, runtime: Runtime, session: int, key: str, log: PowerCutMemoryLog) -> None:
        try:
            ticket = await runtime.send(session, MessageRequest(content=key, key=key))
            if not log.power_is_off.is_set():
                self.accepted.add(key)
            result = await ticket.wait_result()
            if not log.power_is_off.is_set():
                assert self.results.setdefault(key, result) == result, "a repeat gives the first result"
        except Problem:
            assert log.power_is_off.is_set()

    async def check(self) -> tuple[Session, list[AnySessionEvent]]:
        """The session, and its log, as a dead daemon left it."""
        log = MemoryLog(self.disk)
        listed = await log.list_sessions(SessionFilter())
        if not listed:
            assert not self.accepted
            return Session(0), []
        ((outline, _),) = listed
        session = Session(outline.id)
        events = [decode_row(row.body) for row in await log.events(session.id, 0, 1000)]
        for event in events:
            session.apply(event)
        assert outline == session.state
        assert decide(WALRUS, outline) == decide(WALRUS, session.state)
        heard = texts(events)
        there = Counter([*heard, *[plain_text(queued.content) for queued in await log.inbox(session.id)]])
        assert set(there) <= {"first", "second"}
        assert all(there[key] == 1 for key in self.accepted)
        assert max(there.values(), default=0) <= 1
        started = {event.call_id for event in events if isinstance(event, ToolStarted)}
        assert set(self.touched) <= started, "the intent is durable before the effect"
        assert max(self.touched.values(), default=0) <= 1, "no tool ran twice"
        return session, events

    async def check_finished(self) -> None:
        """A daemon that was not killed has come to the end of all that was left to do."""
        session, events = await self.check()
        assert session.turn is None
        assert has_paired_calls(session.history.messages)
        assert texts(events) == ["first", "second"]
        assert sum(isinstance(event, Done) for event in events) == 2
        assert set(self.results) == {"first", "second"}
        for event in events:
            if isinstance(event, ToolResult) and event.outcome == "interrupted":
                told = "unknown" in event.output
                assert told or not self.touched[event.call_id], "an effect is not denied"


def texts(events: Sequence[AnySessionEvent]) -> list[str]:
    """What clients have said."""
    heard = [event for event in events if isinstance(event, UserMessage) and event.kind != "resume"]
    return [plain_text(event.content) for event in heard]


class TouchHook(Hook):
    def __init__(self, scenario: RecoveryScenario, log: PowerCutMemoryLog) -> None:
        self._scenario = scenario
        self._log = log

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(TOUCH)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.record_started(None)
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._log.power_is_off.is_set():
            self._scenario.touched[request.call.id] += 1
        return ToolResult(call_id=request.call.id, name="touch", output="touched")


async def writes_per_run() -> int:
    return await RecoveryScenario().run()


async def run_with_two_cuts(first: int, second: int, when: CutMoment, on_restart: OnRestart) -> bool:
    """Whether the second life was killed as well."""
    story = RecoveryScenario(on_restart)
    await story.run(first, when)
    await story.check()
    needed = await story.run(second, when)
    await story.check()
    await story.run()
    await story.check_finished()
    return needed >= second


@pytest.mark.parametrize("on_restart", ["continue", "close"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_power_cuts_at_any_write_and_again_during_recovery_break_no_promise(
    when: CutMoment, on_restart: OnRestart, autojump_clock: trio.abc.Clock
) -> None:
    deaths = 0
    for first in range(1, await writes_per_run() + 1):
        for second in count(1):
            deaths += 1
            if not await run_with_two_cuts(first, second, when, on_restart):
                break
    assert deaths > 100
