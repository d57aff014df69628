"""Tests power cuts at every write of a turn and its recovery: nothing is lost or done twice."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import pytest
import trio
import trio.testing

from tests.fakes.call_pairing import has_paired_calls
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import FakeModel, calls, in_turn, replies
from tests.fakes.stepped_log import Step, SteppedMemoryLog
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
from walrusd.store.contract import Write
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.inbox import read_inbox
from walrusd.store.tables.session import SessionFilter

CutStep = Literal["before", "durable"]
UNLIMITED_WRITES = 1000
"""Number of writes; more than one run makes."""
WALRUS = Agent(name="walrus")
TOUCH = ToolSchema(name="touch", description="Touch.", parameters={"type": "object"})


class PowerCutMemoryLog(SteppedMemoryLog):
    """A log whose power fails when its n-th write reaches a step."""

    def __init__(self, last: MemoryLog, cut_at_write: int, cut_at_step: CutStep) -> None:
        super().__init__(last)
        self.power_is_off = trio.Event()
        self._cut_at = (cut_at_write, cut_at_step)
        self.on_step = self._cut_power

    def _cut_power(self, number: int, step: Step, _write: Write) -> StorageFailed | None:
        if (number, step) != self._cut_at:
            return None
        self.kill()
        self.power_is_off.set()
        return StorageFailed("the power is off") if step == "durable" else None


@dataclass
class RecoveryScenario:
    """The state that survives the daemon: its log, the effects of tools, and the results of clients."""

    on_restart: OnRestart = "continue"
    log: MemoryLog = field(default_factory=MemoryLog)
    touched: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    results: dict[str, TurnResult] = field(default_factory=dict)
    ids: Iterator[int] = field(default_factory=count)

    async def run(self, writes: int = UNLIMITED_WRITES, when: CutStep = "before") -> int:
        """Runs the daemon for at most `writes` writes. Returns how many it made.

        Two clients send one message each: the first needs tools, the second is queued behind it.
        """
        self.log = log = PowerCutMemoryLog(self.log, writes, when)
        tools = [ToolCall(f"c{next(self.ids)}", "touch", {}) for _ in range(2)]
        model = FakeModel(in_turn(calls(*tools), *[replies("done")] * 9))
        hook = TouchHook(self, log)
        async with Runtime(model, hook, log=log, clock=trio.current_time, on_restart=self.on_restart) as runtime:
            runtime.add_agent(WALRUS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_clients, runtime, log, nursery.cancel_scope)
                await log.power_is_off.wait()
                nursery.cancel_scope.cancel()
        return log.write_count

    async def _run_clients(self, runtime: Runtime, log: PowerCutMemoryLog, all_done: trio.CancelScope) -> None:
        try:
            await runtime.recover()
            session = await runtime.create_session("walrus", key="session")
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
            handle = await runtime.send(session, MessageRequest(content=key, key=key))
            if not log.power_is_off.is_set():
                self.accepted.add(key)
            result = await handle.wait_result()
            if not log.power_is_off.is_set():
                assert self.results.setdefault(key, result) == result, "a retry returns the first result"
        except Problem:
            assert log.power_is_off.is_set()

    async def check(self) -> tuple[Session, list[AnySessionEvent]]:
        """Checks the disk after a run. Returns the session and its events."""
        self.log = log = MemoryLog(self.log)
        listed = await log.list_sessions(SessionFilter())
        if not listed:
            assert not self.accepted
            return Session(0), []
        ((state, _),) = listed
        session = Session(state.id)
        events = [decode_row(row.body) for row in await log.events(session.id, 0, 1000)]
        for event in events:
            session.apply(event)
        assert state == session.state
        assert decide(WALRUS, state) == decide(WALRUS, session.state)
        recorded = sent_texts(events)
        counts = Counter(
            [*recorded, *[plain_text(queued.content) for queued in await log.read(read_inbox, session.id)]]
        )
        assert set(counts) <= {"first", "second"}
        assert all(counts[key] == 1 for key in self.accepted)
        assert max(counts.values(), default=0) <= 1
        started = {event.call_id for event in events if isinstance(event, ToolStarted)}
        assert set(self.touched) <= started, "`tool_started` is durable before the effect"
        assert max(self.touched.values(), default=0) <= 1, "no tool ran twice"
        return session, events

    async def check_finished(self) -> None:
        """Checks that a daemon that was not killed has finished both turns."""
        session, events = await self.check()
        assert session.turn is None
        assert has_paired_calls(session.history.messages)
        assert sent_texts(events) == ["first", "second"]
        assert sum(isinstance(event, Done) for event in events) == 2
        assert set(self.results) == {"first", "second"}
        for event in events:
            if isinstance(event, ToolResult) and event.outcome == "interrupted":
                effect_unknown = "unknown" in event.output
                assert effect_unknown or not self.touched[event.call_id], "no result denies an effect"


def sent_texts(events: Sequence[AnySessionEvent]) -> list[str]:
    """Returns the texts of the recorded messages of clients."""
    messages = [event for event in events if isinstance(event, UserMessage) and event.kind != "resume"]
    return [plain_text(event.content) for event in messages]


class TouchHook(Hook):
    """A hook with the tool `touch`, which counts its effects by call while the power is on."""

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


async def run_with_two_cuts(first: int, second: int, when: CutStep, on_restart: OnRestart) -> bool:
    """Cuts the power in two runs and checks each. Returns whether the second run reached its cut."""
    scenario = RecoveryScenario(on_restart)
    await scenario.run(first, when)
    await scenario.check()
    writes = await scenario.run(second, when)
    await scenario.check()
    await scenario.run()
    await scenario.check_finished()
    return writes >= second


@pytest.mark.slow
@pytest.mark.parametrize("on_restart", ["continue", "close"])
@pytest.mark.parametrize("when", ["before", "durable"])
async def test_power_cuts_at_any_write_and_again_during_recovery_break_no_promise(
    when: CutStep, on_restart: OnRestart, autojump_clock: trio.abc.Clock
) -> None:
    runs = 0
    for first in range(1, await writes_per_run() + 1):
        for second in count(1):
            runs += 1
            if not await run_with_two_cuts(first, second, when, on_restart):
                break
    assert runs > 100
