"""Tests of running the calls of one round: concurrently if they only read, else in order."""

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
    """One round of a session: the recorded events, and the calls that the tools ran, in order."""

    def __init__(self, *kinds: str) -> None:
        """Makes one call for each kind ("read" only reads, "write" does not), with the ids 0, 1, 2 …"""
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
        raise AssertionError("no output here is long")

    def finished(self) -> list[str]:
        return [event.call_id for event in self.events if isinstance(event, ToolResult)]


async def return_at_once(n: int) -> None:
    await trio.lowlevel.checkpoint()


async def test_each_call_records_its_start_and_then_its_outcome() -> None:
    round_ = RoundHarness("write", "write")
    await round_.run(return_at_once)
    assert round_.events == [
        ToolStarted(call_id="0", name="write"),
        ToolResult(call_id="0", name="write", output="0", bytes=1),
        ToolStarted(call_id="1", name="write"),
        ToolResult(call_id="1", name="write", output="1", bytes=1),
    ]


async def test_a_refused_call_records_no_start_and_does_not_stop_the_others() -> None:
    round_ = RoundHarness("nothing", "write")
    await round_.run(return_at_once)
    assert [type(event) for event in round_.events] == [ToolResult, ToolStarted, ToolResult]
    assert round_.finished() == ["0", "1"]


async def test_read_only_calls_run_concurrently_and_are_recorded_as_they_complete(
    autojump_clock: MockClock,
) -> None:
    round_ = RoundHarness("read", "read", "read")

    async def work(n: int) -> None:
        await trio.sleep(3 - n)

    await round_.run(work)
    assert round_.max_parallel == 3
    assert round_.finished() == ["2", "1", "0"]


async def test_the_number_of_concurrent_calls_is_limited(autojump_clock: MockClock) -> None:
    round_ = RoundHarness(*["read"] * (3 * MAX_CONCURRENT_CALLS))

    async def work(n: int) -> None:
        await trio.sleep(1)

    await round_.run(work)
    assert round_.max_parallel == MAX_CONCURRENT_CALLS
    assert len(round_.finished()) == 3 * MAX_CONCURRENT_CALLS


async def test_a_write_waits_for_the_calls_before_it_and_delays_those_after_it(
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
async def test_every_call_gets_one_result_and_a_write_runs_alone(kinds: Sequence[str]) -> None:
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
    events: list[AnySessionEvent] = [
        SessionCreated(agent="walrus"),
        UserMessage(content="go"),
        AssistantMessage(round=1, calls=round_.calls, finish="tool_calls"),
        ToolCallsStart(calls=round_.calls),
        *round_.events,
    ]
    state = SessionState(id=1)
    for event in events:
        state = apply_event(state, fill_derived_fields(state, event, 0.0))
    closing = [event for event in close_open_round(state, None) if isinstance(event, ToolResult)]
    assert [(event.call_id, event.outcome) for event in closing] == [("1", "interrupted"), ("2", "interrupted")]
    assert "took effect is unknown" in closing[0].output
    assert "Not run" in closing[1].output


async def test_if_an_event_cannot_be_recorded_all_calls_stop_and_the_error_is_unchanged() -> None:
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
    weak_reference = ref(round_)
    with suppress(Full):
        await round_.run(work)
    del round_
    assert weak_reference() is None
