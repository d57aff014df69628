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

from tests.dispatch.doubles import Counter, Doing
from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AssistantMessage,
    Durable,
    SessionCreated,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrusd.dispatch.proposal import SIDE_BY_SIDE, run_calls
from walrusd.ports import ToolRun
from walrusd.session.mend import mend
from walrusd.session.outline import Outline, advance, stamp


class Round:
    """One round of a session: what was recorded, and what the tools did, in order."""

    def __init__(self, *kinds: str) -> None:
        """A call a kind: "read" only reads, "write" does not; their ids are 0, 1, 2 …"""
        self.calls = tuple(ToolCall(str(n), kind, {"n": n}) for n, kind in enumerate(kinds))
        self.facts: list[Durable] = []
        self.running: list[int] = []
        self.most_at_once = 0
        self.began: list[int] = []
        self.said: list[tuple[str, str]] = []

    async def record(self, *events: Durable) -> None:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        self.facts.extend(events)

    async def run(self, work: Callable[[int], Awaitable[None]]) -> None:
        async def execute(run: ToolRun) -> str:
            n = run.arguments["n"]
            assert isinstance(n, int)
            self.began.append(n)
            self.running.append(n)
            self.most_at_once = max(self.most_at_once, len(self.running))
            try:
                await work(n)
            finally:
                self.running.remove(n)
            return str(n)

        tools = Counter(Doing("read", execute, read_only=True), Doing("write", execute))
        await run_calls(
            self.calls,
            session=1,
            turn=1,
            agent="walrus",
            workspace="/nowhere",
            schema=tools.schema,
            dispatch=tools.pipeline.dispatch,
            record=self.record,
            keep=self.keep,
            say=lambda call, text: self.said.append((call, text)),
        )

    async def keep(self, body: bytes) -> str:
        raise AssertionError("nothing here is long")

    def finished(self) -> list[str]:
        return [fact.call_id for fact in self.facts if isinstance(fact, ToolResult)]


async def at_once(n: int) -> None:
    await trio.lowlevel.checkpoint()


async def test_each_call_has_its_intent_and_then_its_outcome() -> None:
    round_ = Round("write", "write")
    await round_.run(at_once)
    assert round_.facts == [
        ToolStarted(call_id="0", name="write"),
        ToolResult(call_id="0", name="write", output="0", bytes=1),
        ToolStarted(call_id="1", name="write"),
        ToolResult(call_id="1", name="write", output="1", bytes=1),
    ]


async def test_a_refused_call_has_no_intent_and_does_not_stop_the_others() -> None:
    round_ = Round("nothing", "write")
    await round_.run(at_once)
    assert [type(fact) for fact in round_.facts] == [ToolResult, ToolStarted, ToolResult]
    assert round_.finished() == ["0", "1"]


async def test_calls_that_only_read_run_side_by_side_and_are_recorded_as_they_complete(
    autojump_clock: MockClock,
) -> None:
    round_ = Round("read", "read", "read")

    async def work(n: int) -> None:
        await trio.sleep(3 - n)

    await round_.run(work)
    assert round_.most_at_once == 3
    assert round_.finished() == ["2", "1", "0"]


async def test_at_most_so_many_run_side_by_side(autojump_clock: MockClock) -> None:
    round_ = Round(*["read"] * (3 * SIDE_BY_SIDE))

    async def work(n: int) -> None:
        await trio.sleep(1)

    await round_.run(work)
    assert round_.most_at_once == SIDE_BY_SIDE
    assert len(round_.finished()) == 3 * SIDE_BY_SIDE


async def test_a_call_that_changes_something_waits_for_those_before_it_and_holds_those_after_it(
    autojump_clock: MockClock,
) -> None:
    round_ = Round("read", "read", "write", "read", "write", "write")

    async def work(n: int) -> None:
        if round_.calls[n].name == "write":
            assert round_.running == [n]
        await trio.sleep(10 - n)

    await round_.run(work)
    assert round_.finished() == ["1", "0", "2", "3", "4", "5"]
    assert round_.began.index(2) == 2


@given(st.lists(st.sampled_from(["read", "write", "nothing"]), max_size=12))
async def test_every_call_is_answered_once_and_a_write_is_alone(kinds: Sequence[str]) -> None:
    round_ = Round(*kinds)

    async def work(n: int) -> None:
        assert "write" not in {round_.calls[other].name for other in round_.running if other != n}
        await trio.lowlevel.checkpoint()

    await round_.run(work)
    assert sorted(round_.finished(), key=int) == [call.id for call in round_.calls]
    writes = [n for n in round_.began if round_.calls[n].name == "write"]
    assert writes == sorted(writes)


async def test_an_interrupt_leaves_open_what_mend_can_close() -> None:
    round_ = Round("read", "write", "write")

    async def work(n: int) -> None:
        if n == 1:
            scope.cancel()
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        await round_.run(work)
    assert round_.began == [0, 1]
    facts: list[Durable] = [
        SessionCreated(agent="walrus"),
        UserMessage(content="go"),
        AssistantMessage(round=1, calls=round_.calls, finish="tool_calls"),
        ToolCallsStart(calls=round_.calls),
        *round_.facts,
    ]
    outline = Outline(id=1)
    for fact in facts:
        outline = advance(outline, stamp(outline, fact, 0.0))
    mended = [fact for fact in mend(outline, None) if isinstance(fact, ToolResult)]
    assert [(fact.call_id, fact.outcome) for fact in mended] == [("1", "interrupted"), ("2", "interrupted")]
    assert "took effect is unknown" in mended[0].output
    assert "Not run" in mended[1].output


async def test_when_a_fact_cannot_be_written_everything_stops_and_the_failure_comes_as_it_is() -> None:
    class Full(Exception):
        pass

    class Broken(Round):
        async def record(self, *events: Durable) -> None:
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
    assert sorted(round_.began) == [0, 1, 2]
    assert round_.finished() == ["1"]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_what_failed_keeps_nothing_of_the_round(no_collector: None) -> None:
    class Full(Exception):
        pass

    class Broken(Round):
        async def record(self, *events: Durable) -> None:
            raise Full

    async def work(_: int) -> None:
        await trio.sleep_forever()

    round_ = Broken("read", "read", "read")
    held = ref(round_)
    with suppress(Full):
        await round_.run(work)
    del round_
    assert held() is None
