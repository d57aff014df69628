"""Tests turns through the public methods of the runtime, on the in-memory log."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from tests.fakes.live_session import live_session
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel, calls, fails, in_turn, replies
from walrus_protocol.content import Assistant, ToolCall, ToolOutput, ToolSchema, TurnError, User
from walrus_protocol.events import AnyEvent, Done, TextDelta, ToolResult, UserMessage
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelFailed, ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MAX_QUEUED_MESSAGES, MessageRequest
from walrusd.store.errors import StorageFull

CALL = ToolCall("c1", "look", {"at": "sky"})


class LookHook(Hook):
    """A hook with one tool, `look`, that records the published events."""

    def __init__(self, look: Callable[[ToolRequest], Awaitable[str]] | None = None) -> None:
        self.events: list[AnyEvent] = []
        self._look = look

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(ToolSchema(name="look", description="Look.", parameters={"type": "object"}))

    def on_event(self, agent: str, event: AnyEvent) -> None:
        self.events.append(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.record_started(None)
        output = await self._look(request) if self._look else "blue"
        return ToolResult(call_id=request.call.id, name=request.call.name, output=output)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
async def runtime(model: FakeModel, log: MemoryLog) -> AsyncIterator[Runtime]:
    async with Runtime(model, LookHook(), log=log, max_running_turns=4) as runtime:
        runtime.add_agent(Agent(name="walrus", max_iterations=3))
        yield runtime


def event_tags(runtime: Runtime, session: int) -> list[str]:
    [hook] = runtime.hook.hooks
    assert isinstance(hook, LookHook)
    return [
        str(type(e).__struct_config__.tag)
        for e in hook.events
        if e.session == session and e.seq is not None and not hasattr(e, "live")
    ]


async def test_a_message_is_answered_and_the_next_one_sees_the_conversation(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus", "test")
    model.respond = in_turn(replies("hello"), replies("again"))
    first = await runtime.send_to(session, "hi")
    second = await runtime.send_to(session, "more")
    assert (first.final_response, first.stop_reason, first.iterations) == ("hello", "text_response", 1)
    assert second.final_response == "again"
    assert model.requests[1] == [User("hi"), Assistant(content="hello"), User("more")]


async def test_tool_calls_are_dispatched_and_the_model_sees_their_results(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    model.respond = in_turn(calls(CALL), replies("it is blue"))
    answer = await runtime.send_to(session, "what colour?")
    assert (answer.final_response, answer.iterations) == ("it is blue", 2)
    assert model.requests[1][-2:] == [Assistant(calls=(CALL,)), ToolOutput(call_id="c1", name="look", output="blue")]
    assert event_tags(runtime, session) == [
        "session_created",
        "user_message",
        "assistant_message",
        "tool_calls_start",
        "tool_started",
        "tool_result",
        "tool_calls_complete",
        "assistant_message",
        "done",
    ]


async def test_a_turn_with_calls_in_every_round_ends_at_max_iterations(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    model.respond = calls(CALL)
    answer = await runtime.send_to(session, "loop")
    assert (answer.stop_reason, answer.iterations) == ("max_iterations", 3)
    model.respond = replies("fine")
    assert (await runtime.send_to(session, "and now?")).final_response == "fine"


async def test_a_failing_model_ends_the_turn_in_error_and_the_next_message_is_answered(
    model: FakeModel, runtime: Runtime
) -> None:
    session = await runtime.create_session("walrus")
    failure = ModelFailed("provider_auth", "401 from the provider", "Set its key.")
    model.respond = in_turn(fails(failure, after="I was say"), replies("better"))
    handle = await runtime.send(session, MessageRequest(content="hi"))
    result = await handle.wait_result()
    error = TurnError("provider_auth", "401 from the provider", "Set its key.")
    assert (result.stop_reason, result.error) == ("error", error)
    [listed] = await runtime.sessions()
    assert (listed.state, listed.error) == ("error", result.error)
    assert await runtime.session(session) == listed
    assert (await runtime.send_to(session, "again")).final_response == "better"
    assert (await runtime.session(session)).error is None
    assert model.requests[1] == [User("hi"), Assistant(content="I was say"), User("again")]


async def test_an_interrupt_stops_the_model_at_once_and_keeps_its_text(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    model.respond = gate = BlockingReply("so far, so ")
    handle = await runtime.send(session, MessageRequest(content="hi"))
    await gate.reached.wait()
    interrupted = await runtime.interrupt(session)
    assert (interrupted.interrupted, interrupted.turn) == (True, 1)
    result = await handle.wait_result()
    assert (result.stop_reason, result.error, result.text) == ("interrupted", None, "so far, so ")
    assert event_tags(runtime, session)[-3:] == ["interrupt_requested", "assistant_message", "done"]
    model.respond = replies("yes")
    await runtime.send_to(session, "go on")
    assert model.requests[1] == [User("hi"), Assistant(content="so far, so "), User("go on")]


async def test_an_interrupt_of_an_idle_session_is_not_an_error(runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    interrupted = await runtime.interrupt(session)
    assert (interrupted.interrupted, interrupted.turn) == (False, None)


async def test_the_result_of_an_interrupted_tool_call_is_that_its_effect_is_unknown(model: FakeModel) -> None:
    reached = trio.Event()

    async def look(_: ToolRequest) -> str:
        reached.set()
        await trio.sleep_forever()
        raise AssertionError

    async with Runtime(model, LookHook(look)) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        model.respond = in_turn(calls(CALL), replies("after all"))
        handle = await runtime.send(session, MessageRequest(content="hi"))
        await reached.wait()
        await runtime.interrupt(session)
        assert (await handle.wait_result()).stop_reason == "interrupted"
        await runtime.send_to(session, "go on")
        output = model.requests[1][2]
        assert isinstance(output, ToolOutput)
        assert output.is_error
        assert "unknown" in output.output


async def test_messages_to_a_busy_session_are_answered_in_order_of_arrival(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    gate = BlockingReply()
    model.respond = in_turn(gate, replies("2"), replies("3"))
    handles = [await runtime.send(session, MessageRequest(content=text)) for text in ("a", "b", "c")]
    assert [handle.queue_position for handle in handles] == [0, 1, 2]
    assert (await runtime.session(session)).queued == 2
    gate.released.set()
    assert [(await handle.wait_result()).text for handle in handles] == ["ok", "2", "3"]
    assert [request[-1] for request in model.requests] == [User("a"), User("b"), User("c")]
    assert model.max_concurrent == 1


async def test_sessions_run_concurrently_up_to_the_limit_and_the_others_wait(
    model: FakeModel, runtime: Runtime
) -> None:
    model.respond = gate = BlockingReply()
    handles = []
    for _ in range(6):
        session = await runtime.create_session("walrus")
        handles.append(await runtime.send(session, MessageRequest(content="hi")))
    await trio.testing.wait_all_tasks_blocked()
    assert (len(model.requests), model.max_concurrent) == (4, 4)
    gate.released.set()
    assert [(await handle.wait_result()).text for handle in handles] == ["ok"] * 6
    assert model.max_concurrent == 4


async def test_a_full_inbox_refuses_a_message_and_keeps_those_it_accepted(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    model.respond = gate = BlockingReply()
    handles = [await runtime.send(session, MessageRequest(content=f"{n}")) for n in range(MAX_QUEUED_MESSAGES + 1)]
    with pytest.raises(Problem) as refused:
        await runtime.send(session, MessageRequest(content="one too many"))
    assert (refused.value.kind, refused.value.data) == ("inbox_full", {"retry_after_ms": 1000})
    gate.released.set()
    for handle in handles:
        await handle.wait_result()
    assert len(model.requests) == MAX_QUEUED_MESSAGES + 1


async def test_when_busy_reject_is_refused_only_while_a_turn_runs(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    gate = BlockingReply()
    model.respond = in_turn(gate, replies("free"))
    running = await runtime.send(session, MessageRequest(content="hi", when_busy="reject"))
    with pytest.raises(Problem, match="turn under way"):
        await runtime.send(session, MessageRequest(content="me too", when_busy="reject"))
    gate.released.set()
    await running.wait_result()
    assert (
        await (await runtime.send(session, MessageRequest(content="now", when_busy="reject"))).wait_result()
    ).text == "free"


async def test_an_interrupting_message_runs_before_the_queued_ones(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    gate = BlockingReply("half")
    model.respond = in_turn(gate, replies("urgent done"), replies("queued done"))
    running = await runtime.send(session, MessageRequest(content="long"))
    await gate.reached.wait()
    queued = await runtime.send(session, MessageRequest(content="queued"))
    urgent = await runtime.send(session, MessageRequest(content="urgent", when_busy="interrupt"))
    assert (await running.wait_result()).stop_reason == "interrupted"
    assert ((await urgent.wait_result()).text, (await urgent.wait_result()).turn) == ("urgent done", 2)
    assert ((await queued.wait_result()).text, (await queued.wait_result()).turn) == ("queued done", 3)


async def test_a_steer_reaches_the_model_at_the_next_round(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    gate = BlockingReply("thinking, ")

    async def call(request: object, on_chunk: object) -> object:
        await gate(request, on_chunk)  # type: ignore[arg-type]
        return await calls(CALL)(request, on_chunk)  # type: ignore[arg-type]

    model.respond = in_turn(call, replies("left it is"))  # type: ignore[arg-type]
    running = await runtime.send(session, MessageRequest(content="where?"))
    await gate.reached.wait()
    steer = await runtime.send(session, MessageRequest(content="go left", when_busy="steer"))
    gate.released.set()
    running_result, steer_result = await running.wait_result(), await steer.wait_result()
    assert running_result == steer_result
    assert running_result.text == "left it is"
    assert model.requests[1][-1] == User("go left")


async def test_a_steer_queued_at_the_final_text_adds_one_more_round(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    gate = BlockingReply("final")
    model.respond = in_turn(gate, replies("then left"))
    running = await runtime.send(session, MessageRequest(content="where?"))
    await gate.reached.wait()
    steer = await runtime.send(session, MessageRequest(content="no, left", when_busy="steer"))
    gate.released.set()
    assert (await running.wait_result()).rounds == 2
    assert (await steer.wait_result()).turn == 1


async def test_a_steer_that_misses_the_turn_becomes_the_next_one(model: FakeModel, log: MemoryLog) -> None:
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="walrus", max_iterations=1))
        session = await runtime.create_session("walrus")
        gate = BlockingReply()
        model.respond = in_turn(gate, replies("next"))
        running = await runtime.send(session, MessageRequest(content="a"))
        await gate.reached.wait()
        steer = await runtime.send(session, MessageRequest(content="b", when_busy="steer"))
        gate.released.set()
        assert (await running.wait_result()).turn == 1
        assert ((await steer.wait_result()).turn, (await steer.wait_result()).text) == (2, "next")


async def test_a_turn_that_times_out_ends_as_interrupted_with_the_error_timeout(
    model: FakeModel, runtime: Runtime, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = BlockingReply("slow")
    handle = await runtime.send(session, MessageRequest(content="hi", timeout_s=5))
    result = await handle.wait_result()
    assert (result.stop_reason, result.text) == ("interrupted", "slow")
    assert result.error is not None
    assert result.error.kind == "timeout"


async def test_a_hook_that_raises_ends_its_turn_with_the_error_internal(model: FakeModel) -> None:
    class RaisingHook(Hook):
        async def on_before_run(self, agent: Agent, history: object) -> list[User]:
            raise ZeroDivisionError

    async with Runtime(model, RaisingHook()) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        result = await (await runtime.send(session, MessageRequest(content="hi"))).wait_result()
        assert result.error is not None
        assert (result.stop_reason, result.error.kind) == ("error", "internal")
        assert (await runtime.session(session)).state == "error"


async def test_messages_a_hook_adds_before_a_run_are_shown_once_and_never_recorded(model: FakeModel) -> None:
    class ReminderHook(Hook):
        async def on_before_run(self, agent: Agent, history: object) -> list[User]:
            return [User("remember the milk")]

    async with Runtime(model, ReminderHook()) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.send_to(session, "hi")
        assert model.requests == [[User("hi"), User("remember the milk")]]
        live = live_session(runtime, session)
        assert live.session.history.messages == [User("hi"), Assistant(content="ok")]


async def test_a_stream_yields_the_turn_from_its_message_to_its_done(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    model.respond = replies("hello")
    async with runtime.stream_to(session, "hi") as events:
        streamed = [event async for event in events]
    assert [str(type(event).__struct_config__.tag) for event in streamed] == [
        "user_message",
        "text_delta",
        "assistant_message",
        "done",
    ]
    assert isinstance(streamed[1], TextDelta)
    assert (streamed[1].text, streamed[1].at, streamed[1].round) == ("hello", 0, 1)


@pytest.mark.parametrize("session", [1, 77])
async def test_a_stream_to_a_missing_session_or_agent_is_one_done_with_an_error(
    model: FakeModel, log: MemoryLog, session: int
) -> None:
    async with Runtime(model, log=log) as earlier:
        earlier.add_agent(Agent(name="removed"))
        assert await earlier.create_session("removed") == 1
    async with Runtime(model, log=MemoryLog(log)) as runtime, runtime.stream_to(session, "hi") as events:
        streamed = [event async for event in events]
    assert len(streamed) == 1
    assert isinstance(streamed[0], Done)
    assert streamed[0].error is not None


async def test_an_unknown_agent_or_session_is_an_error_with_a_hint(runtime: Runtime) -> None:
    with pytest.raises(Problem) as refused:
        await runtime.create_session("walros")
    assert (refused.value.kind, refused.value.hint) == ("agent_not_found", "Did you mean walrus?")
    with pytest.raises(Problem) as refused:
        await runtime.send(9, MessageRequest(content="hi"))
    assert refused.value.kind == "session_not_found"


async def test_a_closed_session_stays_closed(runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    assert await runtime.close_session(session)
    assert not await runtime.close_session(session)
    assert (await runtime.session(session)).state == "closed"
    with pytest.raises(Problem) as refused:
        await runtime.send(session, MessageRequest(content="hi"))
    assert refused.value.kind == "session_closed"


async def test_a_close_lets_the_running_and_the_queued_turns_finish(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    model.respond = gate = BlockingReply()
    handles = [await runtime.send(session, MessageRequest(content=text)) for text in ("a", "b")]
    assert await runtime.close_session(session)
    assert not await runtime.close_session(session)
    with pytest.raises(Problem, match="closed"):
        await runtime.send(session, MessageRequest(content="late"))
    gate.released.set()
    assert [(await handle.wait_result()).stop_reason for handle in handles] == ["text_response", "text_response"]
    assert await runtime.wait(session, {"closed"}) == "closed"


async def test_a_forced_close_interrupts_the_turn_and_ends_all_queued_ones(model: FakeModel, runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    model.respond = BlockingReply("half")
    handles = [await runtime.send(session, MessageRequest(content=text)) for text in ("a", "b", "c")]
    assert await runtime.close_session(session)
    assert await runtime.close_session(session, force=True)
    assert [(await handle.wait_result()).stop_reason for handle in handles] == ["interrupted"] * 3
    assert (await runtime.session(session)).state == "closed"
    assert len(model.requests) == 1


async def test_a_full_disk_suspends_the_turn_until_there_is_space_again(
    model: FakeModel, runtime: Runtime, log: MemoryLog, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = gate = BlockingReply("half")
    handle = await runtime.send(session, MessageRequest(content="hi"))
    await gate.reached.wait()
    log.fail_with = StorageFull("no space left")
    gate.released.set()
    with pytest.raises(Problem) as refused:
        await handle.wait_result()
    assert (refused.value.kind, refused.value.data) == ("storage_full", {"session": session, "turn": 1})
    with pytest.raises(Problem) as refused:
        await runtime.send(session, MessageRequest(content="again"))
    assert refused.value.kind == "storage_full"
    assert runtime.suspended_sessions() == (session,)
    assert (await runtime.session(session)).state == "processing"
    log.fail_with = None
    assert await runtime.wait(session, {"error", "idle"}) == "error"
    await trio.testing.wait_all_tasks_blocked()
    assert runtime.suspended_sessions() == ()
    assert event_tags(runtime, session)[-2:] == ["assistant_message", "done"]
    model.respond = replies("space again")
    assert (await runtime.send_to(session, "and now?")).final_response == "space again"


async def test_a_send_that_the_disk_refuses_does_not_use_up_its_key(
    model: FakeModel, runtime: Runtime, log: MemoryLog
) -> None:
    session = await runtime.create_session("walrus")
    log.fail_with = StorageFull("no space left")
    with pytest.raises(Problem):
        await runtime.send(session, MessageRequest(content="hi", key="k"))
    log.fail_with = None
    assert (await (await runtime.send(session, MessageRequest(content="other", key="k"))).wait_result()).text == "ok"
    assert model.requests == [[User("other")]]


async def test_a_stream_whose_turn_cannot_be_recorded_ends_with_a_done_that_has_the_error(
    model: FakeModel, runtime: Runtime, log: MemoryLog
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = gate = BlockingReply("half")
    async with runtime.stream_to(session, "hi") as events:
        assert isinstance(await anext(events), UserMessage)
        log.fail_with = StorageFull("no space left")
        gate.released.set()
        streamed = [event async for event in events]
    assert isinstance(streamed[-1], Done)
    assert streamed[-1].error is not None
    assert "no space left" in streamed[-1].error.message
    log.fail_with = None
