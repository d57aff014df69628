"""Tests that open turns resume after a stop or crash, up to the maximum number of attempts."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.fakes.live_session import live_session
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel, Responder, calls, in_turn, replies
from tests.fakes.validators import violations
from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, ToolSchema, User
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    InterruptRequested,
    ToolResult,
    ToolStarted,
    TurnResumed,
    UserMessage,
    decode_row,
)
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, OnChunk, Reply, TextChunk, ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.session.recovery import CONTINUE_PROMPT, EFFECT_UNKNOWN, NOT_RUN, RETRY_REPLY_PROMPT, OnRestart
from walrusd.store.errors import StorageFull

Autojump = trio.abc.Clock
RESUME_PROMPT = User(f"From walrusd:\n{RETRY_REPLY_PROMPT}")
LOOK = ToolSchema(name="look", description="Look.", parameters={"type": "object"}, read_only=True, idempotent=True)
TOUCH = ToolSchema(name="touch", description="Touch.", parameters={"type": "object"})


class HangingToolsHook(Hook):
    """A hook with the tools `look` and `touch`; the one named `hanging_tool` does not return."""

    def __init__(self) -> None:
        self.hanging_tool = ""
        self.executed: list[str] = []
        self.reached = trio.Event()

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(LOOK)
        registry.register_tool(TOUCH)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.record_started(None)
        await trio.lowlevel.checkpoint_if_cancelled()
        self.executed.append(request.call.id)
        if request.call.name == self.hanging_tool:
            self.reached.set()
            await trio.sleep_forever()
        return ToolResult(call_id=request.call.id, name=request.call.name, output="done")


class RestartableDaemon:
    """A daemon that is stopped or crashed and restarted on the same log."""

    def __init__(self) -> None:
        self.model = FakeModel()
        self.tools = HangingToolsHook()
        self.log = MemoryLog()
        self._crashed = False

    @asynccontextmanager
    async def run(self, *, slots: int = 64, on_restart: OnRestart = "continue") -> AsyncIterator[Runtime]:
        self.log = MemoryLog(self.log)
        runtime = Runtime(
            self.model,
            self.tools,
            log=self.log,
            clock=trio.current_time,
            max_running_turns=slots,
            on_restart=on_restart,
        )
        async with runtime:
            runtime.add_agent(Agent(name="walrus", max_iterations=3))
            await runtime.recover()
            yield runtime

    def crash(self) -> None:
        """Simulates a crash: later writes of the running daemon are lost."""
        self.log = MemoryLog(self.log)

    async def events(self, session: int = 1) -> list[AnySessionEvent]:
        return [decode_row(row.body) for row in await self.log.events(session, 0, 1000)]

    async def resumptions(self) -> list[tuple[int, str]]:
        return [(event.attempt, event.reason) for event in await self.events() if isinstance(event, TurnResumed)]

    async def turn_ends(self) -> list[tuple[str, str | None]]:
        dones = [event for event in await self.events() if isinstance(event, Done)]
        return [(done.stop_reason, done.error.kind if done.error else None) for done in dones]

    async def stop_in_mid_turn(self, reply: BlockingReply, *, crash: bool) -> None:
        """Runs the daemon, which starts or resumes the first turn, and ends it while `reply` is in progress."""
        self.model.respond = reply
        async with self.run() as runtime:
            if not await self.log.session_state(1):
                await runtime.create_session("walrus")
                await runtime.send(1, MessageRequest(content="hi", key="k"))
            await reply.reached.wait()
            await trio.sleep(0.3)
            if crash:
                self.crash()

    async def run_to_end(self, respond: Responder | None = None) -> list[Message]:
        """Runs the daemon until its session is at rest. Returns the messages of the last model request."""
        self.model.respond = respond or replies("whole")
        async with self.run() as runtime:
            with trio.fail_after(60):
                await runtime.wait(1, {"idle", "error", "closed"})
        assert [violation for request in self.model.requests for violation in violations(request)] == []
        return self.model.requests[-1]


@pytest.fixture
def daemon() -> RestartableDaemon:
    return RestartableDaemon()


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_an_interrupted_turn_resumes_and_runs_to_its_done(
    daemon: RestartableDaemon, autojump_clock: Autojump, *, crash: bool
) -> None:
    await daemon.stop_in_mid_turn(BlockingReply("Once up"), crash=crash)
    assert await daemon.run_to_end() == [User("hi"), Assistant(content="Once up"), RESUME_PROMPT]
    assert await daemon.turn_ends() == [("text_response", None)]
    assert await daemon.resumptions() == [(2, "crash") if crash else (1, "shutdown")]
    replied = [event for event in await daemon.events() if isinstance(event, AssistantMessage)]
    assert [(event.round, event.content, event.finish) for event in replied] == [
        (1, "Once up", "interrupted"),
        (2, "whole", "stop"),
    ]
    async with daemon.run() as runtime:
        result = await (await runtime.send(1, MessageRequest(content="hi", key="k"))).wait_result()
    assert (result.turn, result.text, result.cost_usd) == (1, "whole", None), "a retry returns its result"


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_a_model_call_interrupted_before_its_first_token_is_repeated_unchanged(
    daemon: RestartableDaemon, autojump_clock: Autojump, *, crash: bool
) -> None:
    await daemon.stop_in_mid_turn(BlockingReply(), crash=crash)
    assert await daemon.run_to_end() == [User("hi")]
    assert await daemon.turn_ends() == [("text_response", None)]


async def test_a_turn_that_crashed_the_daemon_twice_is_resumed_by_hand_only(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    for text in ("One", "Two"):
        await daemon.stop_in_mid_turn(BlockingReply(text), crash=True)
    daemon.model.respond = replies("never")
    for _ in range(2):
        async with daemon.run() as runtime:
            assert (await runtime.session(1)).state == "error"
    assert len(daemon.model.requests) == 2
    [done] = [event for event in await daemon.events() if isinstance(event, Done)]
    assert (done.stop_reason, done.text, done.error and done.error.kind) == ("error", "Two", "crashed_repeatedly")
    assert done.error
    assert "`walrusctl session resume 1`" in done.error.hint
    daemon.model.respond = replies("At last")
    async with daemon.run() as runtime:
        result = await (
            await runtime.send(1, MessageRequest(content=CONTINUE_PROMPT, kind="resume", when_busy="reject"))
        ).wait_result()
    assert (result.turn, result.text) == (2, "At last")
    assert daemon.model.requests[-1] == [
        User("hi"),
        Assistant(content="One"),
        RESUME_PROMPT,
        Assistant(content="Two"),
        User(CONTINUE_PROMPT),
    ]


async def test_stops_do_not_count_as_attempts(daemon: RestartableDaemon, autojump_clock: Autojump) -> None:
    await daemon.stop_in_mid_turn(BlockingReply("One"), crash=True)
    for text in ("Two", "Three", "Four"):
        await daemon.stop_in_mid_turn(BlockingReply(text), crash=False)
    await daemon.run_to_end()
    assert await daemon.resumptions() == [(2, "crash"), *[(2, "shutdown")] * 3]
    assert await daemon.turn_ends() == [("text_response", None)]


async def test_a_crash_after_a_stop_counts_as_a_crash(daemon: RestartableDaemon, autojump_clock: Autojump) -> None:
    await stop_during_tool(daemon, "touch", ToolCall("c0", "touch", {}), crash=False)
    await daemon.stop_in_mid_turn(BlockingReply(), crash=True)
    await daemon.run_to_end()
    assert await daemon.resumptions() == [(1, "shutdown"), (2, "crash")]


async def test_an_exception_in_the_daemon_counts_as_a_crash(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    gate = daemon.model.respond = BlockingReply("One")
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), flatten_subgroups=True, allow_unwrapped=True):
        async with daemon.run() as runtime:
            await runtime.create_session("walrus")
            await runtime.send(1, MessageRequest(content="hi"))
            assert isinstance(gate, BlockingReply)
            await gate.reached.wait()
            raise ZeroDivisionError
    await daemon.run_to_end()
    assert await daemon.resumptions() == [(2, "crash")]


async def test_a_completed_round_resets_the_number_of_attempts(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    await daemon.stop_in_mid_turn(BlockingReply("One"), crash=True)
    gate = BlockingReply("Two")
    daemon.model.respond = in_turn(calls(ToolCall("c1", "touch", {})), gate)
    async with daemon.run():
        await gate.reached.wait()
        daemon.crash()
    await daemon.run_to_end()
    assert await daemon.resumptions() == [(2, "crash"), (2, "crash")]
    assert await daemon.turn_ends() == [("text_response", None)]


async def stop_during_tool(daemon: RestartableDaemon, tool: str, *requested: ToolCall, crash: bool = True) -> None:
    daemon.model.respond = calls(*requested)
    daemon.tools.hanging_tool = tool
    async with daemon.run() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, MessageRequest(content="hi"))
        await daemon.tools.reached.wait()
        if crash:
            daemon.crash()
    daemon.tools.hanging_tool = ""


def output_texts(messages: Sequence[Message]) -> list[str]:
    return [message.output for message in messages if isinstance(message, ToolOutput)]


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_a_call_that_had_started_and_the_calls_after_it_are_not_run_again(
    daemon: RestartableDaemon, autojump_clock: Autojump, *, crash: bool
) -> None:
    requested = [ToolCall(f"c{n}", tool, {}) for n, tool in enumerate(("look", "touch", "touch"))]
    await stop_during_tool(daemon, "touch", *requested, crash=crash)
    assert output_texts(await daemon.run_to_end()) == ["done", EFFECT_UNKNOWN, NOT_RUN]
    assert daemon.tools.executed == ["c0", "c1"]
    assert await daemon.turn_ends() == [("text_response", None)]


async def test_an_idempotent_call_is_run_once_more_and_then_the_calls_after_it(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    requested = [ToolCall("c0", "look", {}), ToolCall("c1", "touch", {})]
    await stop_during_tool(daemon, "look", *requested)
    assert output_texts(await daemon.run_to_end()) == ["done", "done"]
    assert daemon.tools.executed == ["c0", "c0", "c1"]
    started = [event for event in await daemon.events() if isinstance(event, ToolStarted)]
    assert [(event.call_id, event.attempt) for event in started] == [("c0", 1), ("c0", 2), ("c1", 1)]


async def test_parallel_calls_at_a_clean_stop_are_suspended_with_their_turn(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    await stop_during_tool(daemon, "look", ToolCall("c0", "look", {}), ToolCall("c1", "look", {}), crash=False)
    assert output_texts(await daemon.run_to_end()) == ["done", "done"]
    assert await daemon.resumptions() == [(1, "shutdown")]


async def test_a_reply_of_only_white_space_is_dropped(daemon: RestartableDaemon, autojump_clock: Autojump) -> None:
    await daemon.stop_in_mid_turn(BlockingReply("\n"), crash=True)
    assert await daemon.run_to_end() == [User("hi")]


async def test_a_turn_whose_tool_crashes_the_daemon_each_time_is_given_up(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    await stop_during_tool(daemon, "touch", ToolCall("c0", "touch", {}))
    daemon.tools.hanging_tool, daemon.tools.reached = "touch", trio.Event()
    daemon.model.respond = calls(ToolCall("c1", "touch", {}))
    async with daemon.run():
        await daemon.tools.reached.wait()
        daemon.crash()
    await daemon.run_to_end()
    assert await daemon.turn_ends() == [("error", "crashed_repeatedly")]
    assert daemon.tools.executed == ["c0", "c1"]


async def test_an_interrupt_is_still_valid_after_a_restart(daemon: RestartableDaemon, autojump_clock: Autojump) -> None:
    gate = daemon.model.respond = BlockingReply("Once up")
    async with daemon.run() as runtime:
        session = await runtime.create_session("walrus")
        await runtime.send(session, MessageRequest(content="hi"))
        assert isinstance(gate, BlockingReply)
        await gate.reached.wait()
        live = live_session(runtime, session)
        live.recorder.submit(InterruptRequested(by="client"))
        await trio.testing.wait_all_tasks_blocked()
        daemon.crash()
    await daemon.run_to_end()
    assert await daemon.turn_ends() == [("interrupted", None)]
    assert len(daemon.model.requests) == 1


@pytest.mark.parametrize(
    ("down_s", "expected"),
    [(5, ("text_response", None)), (1000, ("interrupted", "timeout"))],
    ids=["in time", "too late"],
)
async def test_the_timeout_of_a_turn_counts_from_its_start_over_a_restart(
    daemon: RestartableDaemon, autojump_clock: Autojump, down_s: float, expected: tuple[str, str | None]
) -> None:
    gate = daemon.model.respond = BlockingReply("Once up")
    async with daemon.run() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, MessageRequest(content="hi", timeout_s=60))
        assert isinstance(gate, BlockingReply)
        await gate.reached.wait()
    await trio.sleep(down_s)
    await daemon.run_to_end()
    assert await daemon.turn_ends() == [expected]


async def test_the_remaining_timeout_ends_a_resumed_turn(daemon: RestartableDaemon, autojump_clock: Autojump) -> None:
    gate = daemon.model.respond = BlockingReply("Once up")
    async with daemon.run() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, MessageRequest(content="hi", timeout_s=60))
        assert isinstance(gate, BlockingReply)
        await gate.reached.wait()
        await trio.sleep(40)
    before = trio.current_time()
    await daemon.run_to_end(BlockingReply("again"))
    assert await daemon.turn_ends() == [("interrupted", "timeout")]
    assert trio.current_time() - before == pytest.approx(20)


async def test_turns_that_wait_for_a_slot_are_not_resumed_yet_and_can_be_ended(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    daemon.model.respond = BlockingReply()
    async with daemon.run() as runtime:
        for session in (1, 2, 3):
            await runtime.create_session("walrus")
            await runtime.send(session, MessageRequest(content="hi"))
        await trio.testing.wait_all_tasks_blocked()
        daemon.crash()
    async with daemon.run(slots=1) as runtime:
        await trio.testing.wait_all_tasks_blocked()
        waiting = [n for n in (1, 2, 3) if not any(isinstance(event, TurnResumed) for event in await daemon.events(n))]
        assert len(waiting) == 2
        with trio.fail_after(5):
            assert (await runtime.interrupt(waiting[0])).interrupted
            assert await runtime.close_session(waiting[1], force=True)
        daemon.crash()
    states = [(await daemon.log.session_state(n)) for n in waiting]
    assert [state and state.state for state in states] == ["idle", "closed"]


async def test_messages_queued_behind_a_resumed_turn_are_answered_after_it(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    gate = daemon.model.respond = BlockingReply("Once up")
    async with daemon.run() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, MessageRequest(content="hi"))
        await runtime.send(1, MessageRequest(content="and then?"))
        await runtime.send(1, MessageRequest(content="shorter!", when_busy="steer"))
        assert isinstance(gate, BlockingReply)
        await gate.reached.wait()
    await daemon.run_to_end()
    recorded = [(event.turn, event.kind) for event in await daemon.events() if isinstance(event, UserMessage)]
    assert recorded == [(1, "message"), (1, "resume"), (1, "steer"), (2, "message")]


async def test_if_recovery_cannot_write_the_turn_ends_with_a_storage_error_later(
    daemon: RestartableDaemon, autojump_clock: Autojump
) -> None:
    await daemon.stop_in_mid_turn(BlockingReply("Once up"), crash=True)
    daemon.model.respond = replies("never")
    async with daemon.run() as runtime:
        daemon.log.fail_with = StorageFull("no space left")
        await trio.sleep(5)
        assert runtime.suspended_sessions() == (1,)
        daemon.log.fail_with = None
        await runtime.wait(1, {"error"})
    assert await daemon.turn_ends() == [("error", "storage")]


@pytest.mark.parametrize("tokens", range(0, 60, 3))
async def test_a_crash_at_any_token_loses_at_most_the_last_quarter_of_a_second(
    daemon: RestartableDaemon, autojump_clock: Autojump, tokens: int
) -> None:
    async def reply_slowly(_: ModelRequest, on_chunk: OnChunk) -> Reply:
        for n in range(tokens):
            on_chunk(TextChunk(f"{n} "))
            sent_at.append(trio.current_time())
            await trio.sleep(0.03)
        all_sent.set()
        await trio.sleep_forever()
        raise AssertionError

    sent_at: list[float] = []
    all_sent = trio.Event()
    daemon.model.respond = reply_slowly
    async with daemon.run() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, MessageRequest(content="hi"))
        await all_sent.wait()
        daemon.crash()
        now = trio.current_time()
    await daemon.run_to_end()
    [first, *_] = [event for event in await daemon.events() if isinstance(event, AssistantMessage)]
    old_enough = sum(at <= now - 0.25 for at in sent_at)
    assert isinstance(first.content, str)
    saved = first.content.split()
    assert saved == [str(n) for n in range(len(saved))]
    assert old_enough <= len(saved) <= tokens
    assert await daemon.turn_ends() == [("text_response", None)]


async def test_a_resume_of_a_running_session_is_refused(daemon: RestartableDaemon, autojump_clock: Autojump) -> None:
    gate = daemon.model.respond = BlockingReply()
    async with daemon.run() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, MessageRequest(content="hi"))
        assert isinstance(gate, BlockingReply)
        await gate.reached.wait()
        with pytest.raises(Problem) as refused:
            await runtime.send(1, MessageRequest(content=CONTINUE_PROMPT, kind="resume", when_busy="reject"))
        assert refused.value.kind == "session_busy"
