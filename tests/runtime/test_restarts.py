"""What lives on when the daemon does not: stops, kills, and the next start."""

import pytest
import trio
import trio.testing

from tests.fakes.model import FakeModel, Gate, says
from walrus_protocol.content import Assistant, User
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, Reply, Say
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.session.mend import Draft, OnRestart
from walrusd.store.memory import MemoryLog


def running(model: FakeModel, log: MemoryLog, on_restart: OnRestart = "continue") -> Runtime:
    runtime = Runtime(model, log=log, on_restart=on_restart)
    runtime.add_agent(Agent(name="walrus"))
    return runtime


async def test_a_conversation_goes_on_after_a_restart() -> None:
    model, log = FakeModel(), MemoryLog()
    async with running(model, log) as runtime:
        session = await runtime.create_session("walrus", title="mine")
        await runtime.send_to(session, "one")
        before = await runtime.session(session)
    async with running(model, MemoryLog(log.disk)) as runtime:
        await runtime.recover()
        assert await runtime.session(session) == before
        await runtime.send_to(session, "two")
    assert model.asked[1] == [User("one"), Assistant(content="ok"), User("two")]


async def test_a_turn_that_was_cut_off_by_a_stop_is_closed_at_the_next_start_where_that_is_wanted(
    autojump_clock: trio.abc.Clock,
) -> None:
    gate = Gate("half a sent")
    model, log = FakeModel(gate), MemoryLog()
    async with running(model, log) as runtime:
        session = await runtime.create_session("walrus")
        ticket = await runtime.send(session, Incoming(content="hi"))
        await gate.reached.wait()
        await runtime.stop(grace_s=1)
        with pytest.raises(Problem) as refused:
            await ticket.outcome()
        assert (refused.value.kind, refused.value.data) == ("shutting_down", {"session": session, "turn": 1})
    model.speak = says("and on")
    async with running(model, MemoryLog(log.disk), "close") as runtime:
        await runtime.recover()
        info = await runtime.session(session)
        assert (info.state, info.messages) == ("idle", 2)
        await runtime.send_to(session, "go on")
    assert model.asked[1] == [User("hi"), Assistant(content="half a sent"), User("go on")]


async def test_a_stop_within_the_grace_lets_the_turn_finish(autojump_clock: trio.abc.Clock) -> None:
    gate = Gate()
    model, log = FakeModel(gate), MemoryLog()
    async with running(model, log) as runtime, trio.open_nursery() as nursery:
        session = await runtime.create_session("walrus")
        ticket = await runtime.send(session, Incoming(content="hi"))
        await gate.reached.wait()
        nursery.start_soon(runtime.stop, 60)
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
        assert (await ticket.outcome()).text == "ok"


async def test_queued_messages_are_answered_after_a_restart_and_a_close_among_them_is_kept() -> None:
    model, log = FakeModel(Gate()), MemoryLog()
    async with running(model, log) as runtime:
        session = await runtime.create_session("walrus")
        for text in ("a", "b", "c"):
            await runtime.send(session, Incoming(content=text))
        await runtime.close_session(session)
    model.speak = says("late")
    async with running(model, MemoryLog(log.disk)) as runtime:
        await runtime.recover()
        assert await runtime.wait(session, {"closed"}) == "closed"
    # The first is asked for again.
    assert [asked[-1] for asked in model.asked] == [User("a"), User("a"), User("b"), User("c")]


async def test_all_that_was_left_open_is_read_before_any_of_it_goes_on() -> None:
    """Else a start would take as long as the turns that go on."""
    model, log, read = FakeModel(Gate()), MemoryLog(), list[int]()
    async with running(model, log) as runtime:
        for _ in range(20):
            await runtime.send(await runtime.create_session("walrus"), Incoming(content="hi"))

    async def look(_: ModelRequest, __: Say) -> Reply:
        read.append(len(runtime.sessions_in_memory))
        await trio.lowlevel.checkpoint()
        return Reply(content="ok")

    model.speak = look
    async with running(model, MemoryLog(log.disk)) as runtime:
        await runtime.recover()
        for session in range(1, 21):
            await runtime.wait(session, {"idle"})
    assert read == [20] * 20


async def test_what_a_model_says_is_kept_beside_the_log_while_it_speaks(autojump_clock: trio.abc.Clock) -> None:
    gate = Gate("so far")
    model, log = FakeModel(gate), MemoryLog()
    async with running(model, log) as runtime:
        session = await runtime.create_session("walrus")
        await runtime.send(session, Incoming(content="hi"))
        await gate.reached.wait()
        await trio.sleep(0.3)
        assert await log.draft(session) == Draft(turn=1, round=1, text="so far")
        gate.opened.set()
        assert await runtime.wait(session, {"idle"}) == "idle"
        assert await log.draft(session) is None
