"""How the calls of one round are run: side by side where they only read, else in order; every fact recorded."""

import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from weakref import ref

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.dispatch.pipeline_harness import FunctionTool, PipelineHarness
from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    SessionCreated,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrusd.dispatch.proposal import MAX_CONCURRENT_CALLS, run_calls
from walrusd.ports import ToolRun
from walrusd.session.recovery import close_open_round
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields


class RoundHarness:
    """One round of a session: what was recorded, and what the tools did, in order."""

    def __init__(self, *kinds: str) -> None:
        """A call a kind: "read" only reads, "write" does not; their ids are 0, 1, 2 …"""
        self.calls = tuple(ToolCall(str(n), kind, {"n": n}) for n, kind in enumerate(kinds))
        self.events: list[AnySessionEvent] = []
        self.running: list[int] = []
        self.max_parallel = 0
        self.started: list[int] = []
        self.outputs: list[tuple[str, str]] = []

    async def record(self, *events: AnySessionEvent) -> None:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        self.events.extend(events)

    async def run(self, work: Callable[[int], Awaitable[None]]) -> None:
        async def execute(run: ToolRun) -> str:
            n = run.arguments["n"]
            assert isinstance(n, int)
            self.started.append(n)
            self.running.append(n)
            self.max_parallel = max(self.max_parallel, len(self.running))
            try:
                await work(n)
            finally:
                self.running.remove(n)
            return str(n)

        tools = PipelineHarness(FunctionTool("read", execute, read_only=True), FunctionTool("write", execute))
        await run_calls(
            self.calls,
            session=1,
            turn=1,
            agent="walrus",
            workspace="/nowhere",
            schema=tools.schema,
            dispatch=tools.pipeline.dispatch,
            record=self.record,
            store_output=self.store_output,
            on_output=lambda call, text: self.outputs.append((call, text)),
        )

    async def store_output(self, body: bytes) -> str:
        raise AssertionError("nothing here is long")

    def finished(self) -> list[str]:
        return [fact.call_id for fact in self.events if isinstance(fact, ToolResult)]


async def return_at_once(n: int) -> None:
    await trio.lowlevel.checkpoint()


async def test_each_call_has_its_intent_and_then_its_outcome() -> None:
    round_ = RoundHarness("write", "write")
    await round_.run(return_at_once)
    assert round_.events == [
        ToolStarted(call_id="0", name="write"),
        ToolResult(call_id="0", name="write", output="0", bytes=1),
        ToolStarted(call_id="1", name="write"),
        ToolResult(call_id="1", name="write", output="1", bytes=1),
    ]


async def test_a_refused_call_has_no_intent_and_does_not_stop_the_others() -> None:
    round_ = RoundHarness("nothing", "write")
    await round_.run(return_at_once)
    assert [type(fact) for fact in round_.events] == [ToolResult, ToolStarted, ToolResult]
    assert round_.finished() == ["0", "1"]


async def test_calls_that_only_read_run_side_by_side_and_are_recorded_as_they_complete(
    autojump_clock: MockClock,
) -> None:
    round_ = RoundHarness("read", "read", "read")

    async def work(n: int) -> None:
        await trio.sleep(3 - n)

    await round_.run(work)
    assert round_.max_parallel == 3
    assert round_.finished() == ["2", "1", "0"]


async def test_at_most_so_many_run_side_by_side(autojump_clock: MockClock) -> None:
    round_ = RoundHarness(*["read"] * (3 * MAX_CONCURRENT_CALLS))

    async def work(n: int) -> None:
        await trio.sleep(1)

    await round_.run(work)
    assert round_.max_parallel == MAX_CONCURRENT_CALLS
    assert len(round_.finished()) == 3 * MAX_CONCURRENT_CALLS


async def test_a_call_that_changes_something_waits_for_those_before_it_and_holds_those_after_it(
    autojump_clock: MockClock,
) -> None:
    round_ = RoundHarness("read", "read", "write", "read", "write", "write")

    async def work(n: int) -> None:
        if round_.calls[n].name == "write":
            assert round_.running == [n]
        await trio.sleep(10 - n)

    await round_.run(work)
    assert round_.finished() == ["1", "0", "2", "3", "4", "5"]
    assert round_.started.index(2) == 2


@given(st.lists(st.sampled_from(["read", "write", "nothing"]), max_size=12))
async def test_every_call_is_answered_once_and_a_write_is_alone(kinds: Sequence[str]) -> None:
    round_ = RoundHarness(*kinds)

    async def work(n: int) -> None:
        assert "write" not in {round_.calls[other].name for other in round_.running if other != n}
        await trio.lowlevel.checkpoint()

    await round_.run(work)
    assert sorted(round_.finished(), key=int) == [call.id for call in round_.calls]
    writes = [n for n in round_.started if round_.calls[n].name == "write"]
    assert writes == sorted(writes)


async def test_an_interrupt_leaves_open_calls_that_recovery_can_close() -> None:
    round_ = RoundHarness("read", "write", "write")

    async def work(n: int) -> None:
        if n == 1:
            scope.cancel()
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        await round_.run(work)
    assert round_.started == [0, 1]
    facts: list[AnySessionEvent] = [
        SessionCreated(agent="walrus"),
        UserMessage(content="go"),
        AssistantMessage(round=1, calls=round_.calls, finish="tool_calls"),
        ToolCallsStart(calls=round_.calls),
        *round_.events,
    ]
    outline = SessionState(id=1)
    for fact in facts:
        outline = apply_event(outline, fill_derived_fields(outline, fact, 0.0))
    mended = [fact for fact in close_open_round(outline, None) if isinstance(fact, ToolResult)]
    assert [(fact.call_id, fact.outcome) for fact in mended] == [("1", "interrupted"), ("2", "interrupted")]
    assert "took effect is unknown" in mended[0].output
    assert "Not run" in mended[1].output


async def test_if_an_event_cannot_be_written_all_calls_stop_and_the_error_is_unchanged() -> None:
    class Full(Exception):
        pass

    class Broken(RoundHarness):
        async def record(self, *events: AnySessionEvent) -> None:
            await super().record(*events)
            if isinstance(events[0], ToolResult):
                raise Full

    round_ = Broken("read", "read", "read", "write")

    async def work(n: int) -> None:
        if n == 1:
            await wait_all_tasks_blocked()
        else:
            await trio.sleep_forever()

    with pytest.raises(Full):
        await round_.run(work)
    assert round_.running == []
    assert sorted(round_.started) == [0, 1, 2]
    assert round_.finished() == ["1"]


@pytest.fixture
def gc_disabled() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_a_failure_keeps_no_reference_to_the_round(gc_disabled: None) -> None:
    class Full(Exception):
        pass

    class Broken(RoundHarness):
        async def record(self, *events: AnySessionEvent) -> None:
            raise Full

    async def work(_: int) -> None:
        await trio.sleep_forever()

    round_ = Broken("read", "read", "read")
    held = ref(round_)
    with suppress(Full):
        await round_.run(work)
    del round_
    assert held() is None
