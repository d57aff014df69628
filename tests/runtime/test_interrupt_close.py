"""How turns are ended from outside, and what becomes of what waits: steers, timeouts, a store that fails meanwhile."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tests.fakes.blocking_log import BlockingLog
from tests.fakes.model import BlockingReply, FakeModel, calls, in_turn, replies
from tests.fakes.validators import violations
from walrus_protocol.content import ToolCall, ToolOutput, ToolSchema, User
from walrus_protocol.events import Done, InterruptRequested, ToolResult, UserMessage, decode_row
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply, ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.session.recovery import EFFECT_UNKNOWN, NOT_RUN
from walrusd.store.contract import StorageFull
from walrusd.store.memory import MemoryLog

Autojump = trio.abc.Clock


class HangByArgumentHook(Hook):
    """`look` only reads, `touch` does not; each hangs where its arguments say so."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.hang_reached = trio.Event()

    def on_register_tools(self, registry: ToolRegistry) -> None:
        for name in ("look", "touch"):
            registry.register_tool(
                ToolSchema(name=name, description=name, parameters={"type": "object"}, read_only=name == "look")
            )

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.record_started(None)
        self.executed.append(request.call.id)
        if request.call.arguments:
            self.hang_reached.set()
            await trio.sleep_forever()
        return ToolResult(call_id=request.call.id, name=request.call.name, output="seen")


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def log() -> BlockingLog:
    return BlockingLog()


@pytest.fixture
def tools() -> HangByArgumentHook:
    return HangByArgumentHook()


@pytest.fixture
async def runtime(model: FakeModel, log: BlockingLog, tools: HangByArgumentHook) -> AsyncIterator[Runtime]:
    async with Runtime(model, tools, log=log, clock=trio.current_time) as runtime:
        runtime.add_agent(Agent(name="walrus", max_iterations=3))
        yield runtime


async def send_all(runtime: Runtime, session: int, *contents: str, **options: str) -> list[TurnHandle]:
    return [await runtime.send(session, MessageRequest(content=content, **options)) for content in contents]  # type: ignore[arg-type]  # the options of a send, by name


async def turn_results(*handles: TurnHandle) -> list[tuple[int, str]]:
    results = [await ticket.wait_result() for ticket in handles]
    return [(result.turn, result.text or result.stop_reason) for result in results]


async def test_a_suspended_turn_can_be_ended_as_soon_as_the_disk_recovers(
    model: FakeModel, runtime: Runtime, log: BlockingLog, autojump_clock: Autojump
) -> None:
    ended: list[str] = []
    for force in (False, True):
        session = await runtime.create_session("walrus")
        model.respond = gate = BlockingReply("half")
        await runtime.send(session, MessageRequest(content="hi"))
        await gate.reached.wait()
        log.fail_with = StorageFull("no space left")
        gate.released.set()
        await trio.sleep(60)
        assert runtime.suspended_sessions() == (session,)
        with pytest.raises(Problem, match="no space left"):
            await runtime.interrupt(session)
        log.fail_with = None
        before = trio.current_time()
        if force:
            assert await runtime.close_session(session, force=True)
        else:
            assert (await runtime.interrupt(session)).interrupted
        assert trio.current_time() == before, "it does not wait until the store is asked again"
        events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
        ended += [event.stop_reason for event in events if isinstance(event, Done)]
    assert ended == ["interrupted", "interrupted"]


async def test_a_steer_that_comes_to_its_turn_after_an_interrupt_becomes_the_next_turn(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    gate = BlockingReply("where?")
    model.respond = in_turn(gate, replies("right"))
    running = await runtime.send(session, MessageRequest(content="go"))
    await gate.reached.wait()
    left, right = await send_all(runtime, session, "left", "right", when_busy="steer")
    log.is_blocking = True
    gate.released.set()
    await trio.testing.wait_all_tasks_blocked()
    log.release_one()  # the model's answer
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.interrupt, session)
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    assert await turn_results(running, left, right) == [(1, "where?ok"), (1, "where?ok"), (2, "right")]
    assert (await running.wait_result()).stop_reason == "interrupted"
    assert len(model.requests) == 2, "an interrupted turn asks nobody"


async def test_each_of_several_parallel_calls_gets_the_result_it_reached(
    model: FakeModel, runtime: Runtime, tools: HangByArgumentHook, log: BlockingLog
) -> None:
    asked = [
        ToolCall("c0", "look", {}),
        ToolCall("c1", "look", {"hang": True}),
        ToolCall("c2", "look", {}),
        ToolCall("c3", "touch", {}),
        ToolCall("c4", "look", {}),
    ]
    session = await runtime.create_session("walrus")
    model.respond = in_turn(calls(*asked), replies("I see"))
    ticket = await runtime.send(session, MessageRequest(content="look around"))
    await tools.hang_reached.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert (await runtime.interrupt(session)).turn == 1
    assert (await ticket.wait_result()).stop_reason == "interrupted"
    await runtime.send_to(session, "and?")
    outputs = [message.output for message in model.requests[1] if isinstance(message, ToolOutput)]
    assert outputs == ["seen", EFFECT_UNKNOWN, "seen", NOT_RUN, NOT_RUN]
    assert sorted(tools.executed) == ["c0", "c1", "c2"]
    assert violations(model.requests[1]) == []


async def test_however_many_interrupt_a_turn_it_ends_once_and_each_is_answered(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = gate = BlockingReply("half")
    ticket = await runtime.send(session, MessageRequest(content="hi"))
    await gate.reached.wait()
    told: list[tuple[bool, int | None]] = []

    async def interrupt() -> None:
        answer = await runtime.interrupt(session)
        told.append((answer.interrupted, answer.turn))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(interrupt)
    assert told == [(True, 1)] * 5
    assert await turn_results(ticket) == [(1, "half")]
    events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
    assert [event.stop_reason for event in events if isinstance(event, Done)] == ["interrupted"]


async def test_the_time_of_a_queued_message_counts_from_the_start_of_its_turn(
    model: FakeModel, runtime: Runtime, autojump_clock: Autojump
) -> None:
    async def slowly(request: ModelRequest, say: OnChunk) -> Reply:
        await trio.sleep(100)
        return await replies("long")(request, say)

    session = await runtime.create_session("walrus")
    model.respond = in_turn(slowly, replies("in time"), BlockingReply("too slow"))
    tickets = [
        await runtime.send(session, MessageRequest(content=text, timeout_s=timeout_s))
        for text, timeout_s in (("1", None), ("2", 5.0), ("3", 5.0))
    ]
    assert await turn_results(*tickets) == [(1, "long"), (2, "in time"), (3, "too slow")]
    assert trio.current_time() == pytest.approx(105)
    last = await tickets[2].wait_result()
    assert (last.stop_reason, last.error and last.error.kind) == ("interrupted", "timeout")


async def test_the_time_of_a_turn_that_was_left_open_ends_it_while_it_waits_for_a_slot(
    model: FakeModel, autojump_clock: Autojump
) -> None:
    log = MemoryLog()
    model.respond = gate = BlockingReply("half")
    for life in (1, 2):
        async with Runtime(
            model, log=MemoryLog(log.tables), clock=trio.current_time, max_running_turns=3 - life
        ) as house:
            house.add_agent(Agent(name="walrus"))
            await house.recover()
            if life == 1:
                for session, timeout_s in ((1, None), (2, 60.0)):
                    assert await house.create_session("walrus") == session
                    await house.send(session, MessageRequest(content="go", timeout_s=timeout_s, key="k"))
                await gate.reached.wait()
                await trio.sleep(10)
            else:
                await trio.testing.wait_all_tasks_blocked()
                tickets = [await house.send(session, MessageRequest(content="go", key="k")) for session in (1, 2)]
                with trio.fail_after(100):
                    ended = await tickets[1].wait_result()
                assert (ended.stop_reason, ended.error and ended.error.kind) == ("interrupted", "timeout")
                assert trio.current_time() == pytest.approx(60)
                assert not tickets[0].settled.is_set(), "it has the only slot"


async def test_the_time_of_a_steer_counts_only_where_it_becomes_a_turn(
    model: FakeModel, runtime: Runtime, autojump_clock: Autojump
) -> None:
    async def slowly(request: ModelRequest, say: OnChunk) -> Reply:
        await trio.sleep(100)
        return await replies("long")(request, say)

    async def fails_in_time(_: ModelRequest, __: OnChunk) -> Reply:
        await trio.sleep(100)
        raise ModelFailed("provider_quota", "empty purse")

    session = await runtime.create_session("walrus")
    model.respond = in_turn(slowly, slowly, fails_in_time, BlockingReply("too slow"))
    steer = MessageRequest(content="shorter", when_busy="steer", timeout_s=5)
    for text, ended in (("lands", [(1, "long"), (1, "long")]), ("misses", [(2, "error"), (3, "too slow")])):
        running = await runtime.send(session, MessageRequest(content=text))
        await trio.sleep(1)
        assert await turn_results(running, await runtime.send(session, steer)) == ended


async def test_steers_are_applied_in_the_order_they_came_and_before_what_is_queued(
    model: FakeModel, runtime: Runtime
) -> None:
    session = await runtime.create_session("walrus")
    gate = BlockingReply("so?")
    model.respond = in_turn(gate, replies("steered"), replies("queued"))
    [running] = await send_all(runtime, session, "go")
    await gate.reached.wait()
    [queued] = await send_all(runtime, session, "then this")
    steers = await send_all(runtime, session, "left", "right", when_busy="steer")
    gate.released.set()
    assert await turn_results(running, queued, *steers) == [
        (1, "steered"),
        (2, "queued"),
        (1, "steered"),
        (1, "steered"),
    ]
    assert model.requests[1][-2:] == [User("left"), User("right")]


async def test_a_steer_that_missed_its_turn_steers_the_next_one_of_those_that_wait(
    model: FakeModel, runtime: Runtime
) -> None:
    session = await runtime.create_session("walrus")
    gate = BlockingReply("half")
    model.respond = in_turn(gate, replies("both"))
    [running] = await send_all(runtime, session, "go")
    await gate.reached.wait()
    [queued] = await send_all(runtime, session, "then this")
    [steer] = await send_all(runtime, session, "briefly", when_busy="steer")
    await runtime.interrupt(session)
    assert await turn_results(running, queued, steer) == [(1, "half"), (2, "both"), (2, "both")]
    assert model.requests[1][-2:] == [User("then this"), User("briefly")]


async def test_of_those_that_interrupt_the_latest_goes_first_and_the_others_wait_on(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = in_turn(BlockingReply("half"), replies("second"), replies("first"), replies("patient"))
    tickets = await send_all(runtime, session, "go", "patient")
    log.is_blocking = True

    async def interrupting(content: str) -> None:
        tickets.extend(await send_all(runtime, session, content, when_busy="interrupt"))

    async with trio.open_nursery() as nursery:
        for content in ("first", "second"):
            nursery.start_soon(interrupting, content)
            await trio.testing.wait_all_tasks_blocked()
        log.release()
    assert await turn_results(*tickets) == [(1, "half"), (4, "patient"), (3, "first"), (2, "second")]
    events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
    assert [event.content for event in events if isinstance(event, UserMessage)] == [
        *("go", "second", "first", "patient")
    ]
    assert {event.turn for event in events if isinstance(event, InterruptRequested)} == {1}
