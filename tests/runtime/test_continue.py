"""What was running when the daemon ended goes on: after a stop, after a crash, and not for ever."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.fakes.model import FakeModel, Gate, Speaks, calls, in_turn, says
from tests.fakes.validators import complaints
from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, ToolSchema, User
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
    InterruptRequested,
    ToolResult,
    ToolStarted,
    TurnResumed,
    UserMessage,
    decode_row,
)
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, Reply, Say, TextSaid, ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.schemas import ToolRegistry
from walrusd.session.mend import CUT_OFF, EFFECT_UNKNOWN, GO_ON, NOT_RUN, OnRestart
from walrusd.store.log import StorageFull
from walrusd.store.memory import MemoryLog

Autojump = trio.abc.Clock
ASKED_AGAIN = User(f"From walrusd:\n{CUT_OFF}")
LOOK = ToolSchema(name="look", description="Look.", parameters={"type": "object"}, read_only=True, idempotent=True)
TOUCH = ToolSchema(name="touch", description="Touch.", parameters={"type": "object"})


class Tools(Hook):
    """`hangs` is the name of the tool that does not come to its end."""

    def __init__(self) -> None:
        self.hangs = ""
        self.ran: list[str] = []
        self.reached = trio.Event()

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(LOOK)
        registry.register_tool(TOUCH)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.started(None)
        await trio.lowlevel.checkpoint_if_cancelled()
        self.ran.append(request.call.id)
        if request.call.name == self.hangs:
            self.reached.set()
            await trio.sleep_forever()
        return ToolResult(call_id=request.call.id, name=request.call.name, output="seen")


class World:
    """One disk, and the lives of a daemon on it."""

    def __init__(self) -> None:
        self.model = FakeModel()
        self.tools = Tools()
        self.log = MemoryLog()
        self._crashed = False

    @asynccontextmanager
    async def life(self, *, slots: int = 64, on_restart: OnRestart = "continue") -> AsyncIterator[Runtime]:
        self.log = MemoryLog(self.log.disk)
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
        """What is written from now on is lost."""
        self.log = MemoryLog(self.log.disk)

    async def events(self, session: int = 1) -> list[Durable]:
        return [decode_row(row.body) for row in await self.log.events(session, 0, 1000)]

    async def resumed(self) -> list[tuple[int, str]]:
        return [(event.attempt, event.reason) for event in await self.events() if isinstance(event, TurnResumed)]

    async def ended(self) -> list[tuple[str, str | None]]:
        dones = [event for event in await self.events() if isinstance(event, Done)]
        return [(done.stop_reason, done.error.kind if done.error else None) for done in dones]

    async def goes_down_in_mid_turn(self, speak: Gate, *, crash: bool) -> None:
        """A life in which the first turn is begun, or goes on, and the daemon ends while `speak` speaks."""
        self.model.speak = speak
        async with self.life() as runtime:
            if not await self.log.outline(1):
                await runtime.create_session("walrus")
                await runtime.send(1, Incoming(content="hi", key="k"))
            await speak.reached.wait()
            await trio.sleep(0.3)
            if crash:
                self.crash()

    async def goes_on(self, speak: Speaks | None = None) -> list[Message]:
        """A life in which all comes to its end; what the model was asked last."""
        self.model.speak = speak or says("whole")
        async with self.life() as runtime:
            with trio.fail_after(60):
                await runtime.wait(1, {"idle", "error", "closed"})
        assert [refused for asked in self.model.asked for refused in complaints(asked)] == []
        return self.model.asked[-1]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_a_turn_that_was_cut_off_goes_on_to_its_done(
    world: World, autojump_clock: Autojump, *, crash: bool
) -> None:
    await world.goes_down_in_mid_turn(Gate("Once up"), crash=crash)
    assert await world.goes_on() == [User("hi"), Assistant(content="Once up"), ASKED_AGAIN]
    assert await world.ended() == [("text_response", None)]
    assert await world.resumed() == [(2, "crash") if crash else (1, "shutdown")]
    said = [event for event in await world.events() if isinstance(event, AssistantMessage)]
    assert [(event.round, event.content, event.finish) for event in said] == [
        (1, "Once up", "interrupted"),
        (2, "whole", "stop"),
    ]
    async with world.life() as runtime:
        result = await (await runtime.send(1, Incoming(content="hi", key="k"))).outcome()
    assert (result.turn, result.text, result.cost_usd) == (1, "whole", None), "a repeat gives its result"


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_before_its_first_word_the_model_is_asked_as_before(
    world: World, autojump_clock: Autojump, *, crash: bool
) -> None:
    await world.goes_down_in_mid_turn(Gate(), crash=crash)
    assert await world.goes_on() == [User("hi")]
    assert await world.ended() == [("text_response", None)]


async def test_a_turn_that_took_the_daemon_down_twice_is_not_tried_a_third_time_but_by_hand(
    world: World, autojump_clock: Autojump
) -> None:
    for text in ("One", "Two"):
        await world.goes_down_in_mid_turn(Gate(text), crash=True)
    world.model.speak = says("never")
    for _ in range(2):
        async with world.life() as runtime:
            assert (await runtime.session(1)).state == "error"
    assert len(world.model.asked) == 2
    [done] = [event for event in await world.events() if isinstance(event, Done)]
    assert (done.stop_reason, done.text, done.error and done.error.kind) == ("error", "Two", "crashed_repeatedly")
    assert done.error
    assert "`walrusctl session resume 1`" in done.error.hint
    world.model.speak = says("At last")
    async with world.life() as runtime:
        result = await (await runtime.send(1, Incoming(content=GO_ON, kind="resume", when_busy="reject"))).outcome()
    assert (result.turn, result.text) == (2, "At last")
    assert world.model.asked[-1] == [
        User("hi"),
        Assistant(content="One"),
        ASKED_AGAIN,
        Assistant(content="Two"),
        User(GO_ON),
    ]


async def test_stops_are_no_attempts_however_many(world: World, autojump_clock: Autojump) -> None:
    await world.goes_down_in_mid_turn(Gate("One"), crash=True)
    for text in ("Two", "Three", "Four"):
        await world.goes_down_in_mid_turn(Gate(text), crash=False)
    await world.goes_on()
    assert await world.resumed() == [(2, "crash"), *[(2, "shutdown")] * 3]
    assert await world.ended() == [("text_response", None)]


async def test_a_crash_after_a_stop_is_a_crash(world: World, autojump_clock: Autojump) -> None:
    await cut_off_while_it_ran(world, "touch", ToolCall("c0", "touch", {}), crash=False)
    await world.goes_down_in_mid_turn(Gate(), crash=True)
    await world.goes_on()
    assert await world.resumed() == [(1, "shutdown"), (2, "crash")]


async def test_an_end_by_an_error_of_its_own_is_no_stop(world: World, autojump_clock: Autojump) -> None:
    gate = world.model.speak = Gate("One")
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), flatten_subgroups=True, allow_unwrapped=True):
        async with world.life() as runtime:
            await runtime.create_session("walrus")
            await runtime.send(1, Incoming(content="hi"))
            assert isinstance(gate, Gate)
            await gate.reached.wait()
            raise ZeroDivisionError
    await world.goes_on()
    assert await world.resumed() == [(2, "crash")]


async def test_a_completed_round_makes_it_the_first_attempt_again(world: World, autojump_clock: Autojump) -> None:
    await world.goes_down_in_mid_turn(Gate("One"), crash=True)
    gate = Gate("Two")
    world.model.speak = in_turn(calls(ToolCall("c1", "touch", {})), gate)
    async with world.life():
        await gate.reached.wait()
        world.crash()
    await world.goes_on()
    assert await world.resumed() == [(2, "crash"), (2, "crash")]
    assert await world.ended() == [("text_response", None)]


async def cut_off_while_it_ran(world: World, tool: str, *asked: ToolCall, crash: bool = True) -> None:
    world.model.speak = calls(*asked)
    world.tools.hangs = tool
    async with world.life() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, Incoming(content="hi"))
        await world.tools.reached.wait()
        if crash:
            world.crash()
    world.tools.hangs = ""


def outputs(messages: Sequence[Message]) -> list[str]:
    return [message.output for message in messages if isinstance(message, ToolOutput)]


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_a_call_that_had_begun_is_not_run_again_and_none_behind_it_is(
    world: World, autojump_clock: Autojump, *, crash: bool
) -> None:
    asked = [ToolCall(f"c{n}", tool, {}) for n, tool in enumerate(("look", "touch", "touch"))]
    await cut_off_while_it_ran(world, "touch", *asked, crash=crash)
    assert outputs(await world.goes_on()) == ["seen", EFFECT_UNKNOWN, NOT_RUN]
    assert world.tools.ran == ["c0", "c1"]
    assert await world.ended() == [("text_response", None)]


async def test_a_call_of_an_idempotent_tool_is_run_once_more_and_then_what_is_behind_it(
    world: World, autojump_clock: Autojump
) -> None:
    asked = [ToolCall("c0", "look", {}), ToolCall("c1", "touch", {})]
    await cut_off_while_it_ran(world, "look", *asked)
    assert outputs(await world.goes_on()) == ["seen", "seen"]
    assert world.tools.ran == ["c0", "c0", "c1"]
    started = [event for event in await world.events() if isinstance(event, ToolStarted)]
    assert [(event.call_id, event.attempt) for event in started] == [("c0", 1), ("c0", 2), ("c1", 1)]


async def test_calls_that_ran_side_by_side_when_walrusd_stopped_were_set_aside_with_their_turn(
    world: World, autojump_clock: Autojump
) -> None:
    await cut_off_while_it_ran(world, "look", ToolCall("c0", "look", {}), ToolCall("c1", "look", {}), crash=False)
    assert outputs(await world.goes_on()) == ["seen", "seen"]
    assert await world.resumed() == [(1, "shutdown")]


async def test_a_reply_of_white_space_is_no_reply(world: World, autojump_clock: Autojump) -> None:
    await world.goes_down_in_mid_turn(Gate("\n"), crash=True)
    assert await world.goes_on() == [User("hi")]


async def test_a_tool_that_takes_the_daemon_down_each_time_is_left_alone(
    world: World, autojump_clock: Autojump
) -> None:
    await cut_off_while_it_ran(world, "touch", ToolCall("c0", "touch", {}))
    world.tools.hangs, world.tools.reached = "touch", trio.Event()
    world.model.speak = calls(ToolCall("c1", "touch", {}))
    async with world.life():
        await world.tools.reached.wait()
        world.crash()
    await world.goes_on()
    assert await world.ended() == [("error", "crashed_repeatedly")]
    assert world.tools.ran == ["c0", "c1"]


async def test_an_interrupt_holds_over_a_restart(world: World, autojump_clock: Autojump) -> None:
    gate = world.model.speak = Gate("Once up")
    async with world.life() as runtime:
        session = await runtime.create_session("walrus")
        await runtime.send(session, Incoming(content="hi"))
        assert isinstance(gate, Gate)
        await gate.reached.wait()
        live = await runtime.live(session)
        live.recorder.submit(InterruptRequested(by="client"))
        await trio.testing.wait_all_tasks_blocked()
        world.crash()
    await world.goes_on()
    assert await world.ended() == [("interrupted", None)]
    assert len(world.model.asked) == 1


@pytest.mark.parametrize(
    ("down_s", "ended"), [(5, ("text_response", None)), (1000, ("interrupted", "timeout"))], ids=["in time", "too late"]
)
async def test_the_time_that_a_turn_has_counts_from_its_start(
    world: World, autojump_clock: Autojump, down_s: float, ended: tuple[str, str | None]
) -> None:
    gate = world.model.speak = Gate("Once up")
    async with world.life() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, Incoming(content="hi", timeout_s=60))
        assert isinstance(gate, Gate)
        await gate.reached.wait()
    await trio.sleep(down_s)
    await world.goes_on()
    assert await world.ended() == [ended]


async def test_the_time_that_is_left_ends_a_turn_that_goes_on(world: World, autojump_clock: Autojump) -> None:
    gate = world.model.speak = Gate("Once up")
    async with world.life() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, Incoming(content="hi", timeout_s=60))
        assert isinstance(gate, Gate)
        await gate.reached.wait()
        await trio.sleep(40)
    before = trio.current_time()
    await world.goes_on(Gate("again"))
    assert await world.ended() == [("interrupted", "timeout")]
    assert trio.current_time() - before == pytest.approx(20)


async def test_turns_that_wait_for_a_slot_have_not_begun_and_can_be_ended_meanwhile(
    world: World, autojump_clock: Autojump
) -> None:
    world.model.speak = Gate()
    async with world.life() as runtime:
        for session in (1, 2, 3):
            await runtime.create_session("walrus")
            await runtime.send(session, Incoming(content="hi"))
        await trio.testing.wait_all_tasks_blocked()
        world.crash()
    async with world.life(slots=1) as runtime:
        await trio.testing.wait_all_tasks_blocked()
        waiting = [n for n in (1, 2, 3) if not any(isinstance(event, TurnResumed) for event in await world.events(n))]
        assert len(waiting) == 2
        with trio.fail_after(5):
            assert (await runtime.interrupt(waiting[0])).interrupted
            assert await runtime.close_session(waiting[1], force=True)
        world.crash()
    states = [(await world.log.outline(n)) for n in waiting]
    assert [outline and outline.state for outline in states] == ["idle", "closed"]


async def test_what_waited_behind_it_is_answered_after_it(world: World, autojump_clock: Autojump) -> None:
    gate = world.model.speak = Gate("Once up")
    async with world.life() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, Incoming(content="hi"))
        await runtime.send(1, Incoming(content="and then?"))
        await runtime.send(1, Incoming(content="shorter!", when_busy="steer"))
        assert isinstance(gate, Gate)
        await gate.reached.wait()
    await world.goes_on()
    heard = [(event.turn, event.kind) for event in await world.events() if isinstance(event, UserMessage)]
    assert heard == [(1, "message"), (1, "resume"), (1, "steer"), (2, "message")]


async def test_where_nothing_can_be_written_at_the_start_it_ends_for_that_reason_once_it_can(
    world: World, autojump_clock: Autojump
) -> None:
    await world.goes_down_in_mid_turn(Gate("Once up"), crash=True)
    world.model.speak = says("never")
    async with world.life() as runtime:
        world.log.fail_with = StorageFull("no space left")
        await trio.sleep(5)
        assert runtime.suspended() == (1,)
        world.log.fail_with = None
        await runtime.wait(1, {"error"})
    assert await world.ended() == [("error", "storage")]


@pytest.mark.parametrize("tokens", range(0, 60, 3))
async def test_a_crash_at_any_token_costs_at_most_the_last_quarter_of_a_second(
    world: World, autojump_clock: Autojump, tokens: int
) -> None:
    async def slowly(_: ModelRequest, say: Say) -> Reply:
        for n in range(tokens):
            say(TextSaid(f"{n} "))
            said_at.append(trio.current_time())
            await trio.sleep(0.03)
        crashed.set()
        await trio.sleep_forever()
        raise AssertionError

    said_at: list[float] = []
    crashed = trio.Event()
    world.model.speak = slowly
    async with world.life() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, Incoming(content="hi"))
        await crashed.wait()
        world.crash()
        now = trio.current_time()
    await world.goes_on()
    [first, *_] = [event for event in await world.events() if isinstance(event, AssistantMessage)]
    old_enough = sum(at <= now - 0.25 for at in said_at)
    assert isinstance(first.content, str)
    kept = first.content.split()
    assert kept == [str(n) for n in range(len(kept))]
    assert old_enough <= len(kept) <= tokens
    assert await world.ended() == [("text_response", None)]


async def test_a_session_that_runs_is_not_resumed(world: World, autojump_clock: Autojump) -> None:
    gate = world.model.speak = Gate()
    async with world.life() as runtime:
        await runtime.create_session("walrus")
        await runtime.send(1, Incoming(content="hi"))
        assert isinstance(gate, Gate)
        await gate.reached.wait()
        with pytest.raises(Problem) as refused:
            await runtime.send(1, Incoming(content=GO_ON, kind="resume", when_busy="reject"))
        assert refused.value.kind == "session_busy"
