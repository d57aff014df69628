"""Tests interrupts, closes, steers and timeouts of turns, also while messages wait or the store fails."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tests.fakes.blocking_log import BlockingLog
from tests.fakes.memory_log import MemoryLog
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
from walrusd.store.errors import StorageFull

Autojump = trio.abc.Clock


class HangByArgumentHook(Hook):
    """A hook with a read-only tool `look` and a tool `touch`; a call with arguments hangs."""

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
        return ToolResult(call_id=request.call.id, name=request.call.name, output="done")


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
    results = [await handle.wait_result() for handle in handles]
    return [(result.turn, result.text or result.stop_reason) for result in results]


async def test_a_suspended_turn_can_be_ended_as_soon_as_the_disk_recovers(
    model: FakeModel, runtime: Runtime, log: BlockingLog, autojump_clock: Autojump
) -> None:
    stop_reasons: list[str] = []
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
        assert trio.current_time() == before, "it does not wait for the next retry of the store"
        events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
        stop_reasons += [event.stop_reason for event in events if isinstance(event, Done)]
    assert stop_reasons == ["interrupted", "interrupted"]


async def test_a_steer_applied_after_an_interrupt_becomes_the_next_turn(
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
    log.release_one()  # the reply of the model
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.interrupt, session)
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    assert await turn_results(running, left, right) == [(1, "where?ok"), (1, "where?ok"), (2, "right")]
    assert (await running.wait_result()).stop_reason == "interrupted"
    assert len(model.requests) == 2, "an interrupted turn makes no further model request"


async def test_parallel_calls_get_their_own_results_when_a_turn_is_interrupted(
    model: FakeModel, runtime: Runtime, tools: HangByArgumentHook, log: BlockingLog
) -> None:
    requested = [
        ToolCall("c0", "look", {}),
        ToolCall("c1", "look", {"hang": True}),
        ToolCall("c2", "look", {}),
        ToolCall("c3", "touch", {}),
        ToolCall("c4", "look", {}),
    ]
    session = await runtime.create_session("walrus")
    model.respond = in_turn(calls(*requested), replies("I see"))
    handle = await runtime.send(session, MessageRequest(content="look around"))
    await tools.hang_reached.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert (await runtime.interrupt(session)).turn == 1
    assert (await handle.wait_result()).stop_reason == "interrupted"
    await runtime.send_to(session, "and?")
    outputs = [message.output for message in model.requests[1] if isinstance(message, ToolOutput)]
    assert outputs == ["done", EFFECT_UNKNOWN, "done", NOT_RUN, NOT_RUN]
    assert sorted(tools.executed) == ["c0", "c1", "c2"]
    assert violations(model.requests[1]) == []


async def test_concurrent_interrupts_end_a_turn_once_and_are_all_answered(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = gate = BlockingReply("half")
    handle = await runtime.send(session, MessageRequest(content="hi"))
    await gate.reached.wait()
    answers: list[tuple[bool, int | None]] = []

    async def interrupt() -> None:
        answer = await runtime.interrupt(session)
        answers.append((answer.interrupted, answer.turn))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(interrupt)
    assert answers == [(True, 1)] * 5
    assert await turn_results(handle) == [(1, "half")]
    events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
    assert [event.stop_reason for event in events if isinstance(event, Done)] == ["interrupted"]


async def test_the_timeout_of_a_queued_message_counts_from_the_start_of_its_turn(
    model: FakeModel, runtime: Runtime, autojump_clock: Autojump
) -> None:
    async def reply_after_100s(request: ModelRequest, on_chunk: OnChunk) -> Reply:
        await trio.sleep(100)
        return await replies("long")(request, on_chunk)

    session = await runtime.create_session("walrus")
    model.respond = in_turn(reply_after_100s, replies("in time"), BlockingReply("too slow"))
    handles = [
        await runtime.send(session, MessageRequest(content=text, timeout_s=timeout_s))
        for text, timeout_s in (("1", None), ("2", 5.0), ("3", 5.0))
    ]
    assert await turn_results(*handles) == [(1, "long"), (2, "in time"), (3, "too slow")]
    assert trio.current_time() == pytest.approx(105)
    last = await handles[2].wait_result()
    assert (last.stop_reason, last.error and last.error.kind) == ("interrupted", "timeout")


async def test_the_timeout_of_a_resumed_turn_ends_it_while_it_waits_for_a_slot(
    model: FakeModel, autojump_clock: Autojump
) -> None:
    log = MemoryLog()
    model.respond = gate = BlockingReply("half")
    for run in (1, 2):
        log = MemoryLog(log)
        async with Runtime(model, log=log, clock=trio.current_time, max_running_turns=3 - run) as runtime:
            runtime.add_agent(Agent(name="walrus"))
            await runtime.recover()
            if run == 1:
                for session, timeout_s in ((1, None), (2, 60.0)):
                    assert await runtime.create_session("walrus") == session
                    await runtime.send(session, MessageRequest(content="go", timeout_s=timeout_s, key="k"))
                await gate.reached.wait()
                await trio.sleep(10)
            else:
                await trio.testing.wait_all_tasks_blocked()
                handles = [await runtime.send(session, MessageRequest(content="go", key="k")) for session in (1, 2)]
                with trio.fail_after(100):
                    result = await handles[1].wait_result()
                assert (result.stop_reason, result.error and result.error.kind) == ("interrupted", "timeout")
                assert trio.current_time() == pytest.approx(60)
                assert not handles[0].settled.is_set(), "it has the only slot"


async def test_the_timeout_of_a_steer_counts_only_if_it_becomes_a_turn(
    model: FakeModel, runtime: Runtime, autojump_clock: Autojump
) -> None:
    async def reply_after_100s(request: ModelRequest, on_chunk: OnChunk) -> Reply:
        await trio.sleep(100)
        return await replies("long")(request, on_chunk)

    async def fail_after_100s(_: ModelRequest, __: OnChunk) -> Reply:
        await trio.sleep(100)
        raise ModelFailed("provider_quota", "out of credit")

    session = await runtime.create_session("walrus")
    model.respond = in_turn(reply_after_100s, reply_after_100s, fail_after_100s, BlockingReply("too slow"))
    steer = MessageRequest(content="shorter", when_busy="steer", timeout_s=5)
    for text, expected in (("in time", [(1, "long"), (1, "long")]), ("too late", [(2, "error"), (3, "too slow")])):
        running = await runtime.send(session, MessageRequest(content=text))
        await trio.sleep(1)
        assert await turn_results(running, await runtime.send(session, steer)) == expected


async def test_steers_are_applied_in_order_of_arrival_and_before_queued_messages(
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


async def test_a_steer_that_missed_its_turn_steers_the_next_queued_turn(model: FakeModel, runtime: Runtime) -> None:
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


async def test_the_latest_interrupting_message_runs_first_and_the_others_stay_queued(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = in_turn(BlockingReply("half"), replies("second"), replies("first"), replies("queued"))
    handles = await send_all(runtime, session, "go", "queued")
    log.is_blocking = True

    async def send_interrupting(content: str) -> None:
        handles.extend(await send_all(runtime, session, content, when_busy="interrupt"))

    async with trio.open_nursery() as nursery:
        for content in ("first", "second"):
            nursery.start_soon(send_interrupting, content)
            await trio.testing.wait_all_tasks_blocked()
        log.release()
    assert await turn_results(*handles) == [(1, "half"), (4, "queued"), (3, "first"), (2, "second")]
    events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
    assert [event.content for event in events if isinstance(event, UserMessage)] == [
        *("go", "second", "first", "queued")
    ]
    assert {event.turn for event in events if isinstance(event, InterruptRequested)} == {1}
