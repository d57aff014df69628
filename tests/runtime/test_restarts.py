"""Tests what survives a stop or kill of the daemon and the next start."""

import pytest
import trio
import trio.testing

from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel, replies
from walrus_protocol.content import Assistant, User
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, OnChunk, Reply
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.session.recovery import Draft, OnRestart
from walrusd.store.tables.draft import read_draft


def open_runtime(model: FakeModel, log: MemoryLog, on_restart: OnRestart = "continue") -> Runtime:
    runtime = Runtime(model, log=log, on_restart=on_restart)
    runtime.add_agent(Agent(name="walrus"))
    return runtime


async def test_a_conversation_continues_after_a_restart() -> None:
    model, log = FakeModel(), MemoryLog()
    async with open_runtime(model, log) as runtime:
        session = await runtime.create_session("walrus", title="mine")
        await runtime.send_to(session, "one")
        before = await runtime.session(session)
    async with open_runtime(model, MemoryLog(log)) as runtime:
        await runtime.recover()
        assert await runtime.session(session) == before
        await runtime.send_to(session, "two")
    assert model.requests[1] == [User("one"), Assistant(content="ok"), User("two")]


async def test_a_turn_interrupted_by_a_stop_is_closed_at_the_next_start_if_so_configured(
    autojump_clock: trio.abc.Clock,
) -> None:
    gate = BlockingReply("half a sent")
    model, log = FakeModel(gate), MemoryLog()
    async with open_runtime(model, log) as runtime:
        session = await runtime.create_session("walrus")
        handle = await runtime.send(session, MessageRequest(content="hi"))
        await gate.reached.wait()
        await runtime.stop(grace_s=1)
        with pytest.raises(Problem) as refused:
            await handle.wait_result()
        assert (refused.value.kind, refused.value.data) == ("shutting_down", {"session": session, "turn": 1})
    model.respond = replies("and on")
    async with open_runtime(model, MemoryLog(log), "close") as runtime:
        await runtime.recover()
        info = await runtime.session(session)
        assert (info.state, info.messages) == ("idle", 2)
        await runtime.send_to(session, "go on")
    assert model.requests[1] == [User("hi"), Assistant(content="half a sent"), User("go on")]


async def test_a_stop_within_the_grace_lets_the_turn_finish(autojump_clock: trio.abc.Clock) -> None:
    gate = BlockingReply()
    model, log = FakeModel(gate), MemoryLog()
    async with open_runtime(model, log) as runtime, trio.open_nursery() as nursery:
        session = await runtime.create_session("walrus")
        handle = await runtime.send(session, MessageRequest(content="hi"))
        await gate.reached.wait()
        nursery.start_soon(runtime.stop, 60)
        await trio.testing.wait_all_tasks_blocked()
        gate.released.set()
        assert (await handle.wait_result()).text == "ok"


async def test_queued_messages_are_answered_and_a_queued_close_is_executed_after_a_restart() -> None:
    model, log = FakeModel(BlockingReply()), MemoryLog()
    async with open_runtime(model, log) as runtime:
        session = await runtime.create_session("walrus")
        for text in ("a", "b", "c"):
            await runtime.send(session, MessageRequest(content=text))
        await runtime.close_session(session)
    model.respond = replies("late")
    async with open_runtime(model, MemoryLog(log)) as runtime:
        await runtime.recover()
        assert await runtime.wait(session, {"closed"}) == "closed"
    # The interrupted turn of the first message is resumed.
    assert [request[-1] for request in model.requests] == [User("a"), User("a"), User("b"), User("c")]


async def test_all_unfinished_sessions_are_loaded_before_any_of_them_resumes() -> None:
    """Otherwise a start would take as long as the resumed turns."""
    model, log, cache_sizes = FakeModel(BlockingReply()), MemoryLog(), list[int]()
    async with open_runtime(model, log) as runtime:
        for _ in range(20):
            await runtime.send(await runtime.create_session("walrus"), MessageRequest(content="hi"))

    async def record_cache_size(_: ModelRequest, __: OnChunk) -> Reply:
        cache_sizes.append(len(runtime.session_cache))
        await trio.lowlevel.checkpoint()
        return Reply(content="ok")

    model.respond = record_cache_size
    async with open_runtime(model, MemoryLog(log)) as runtime:
        await runtime.recover()
        for session in range(1, 21):
            await runtime.wait(session, {"idle"})
    assert cache_sizes == [20] * 20


async def test_a_reply_in_progress_is_saved_as_a_draft(autojump_clock: trio.abc.Clock) -> None:
    gate = BlockingReply("so far")
    model, log = FakeModel(gate), MemoryLog()
    async with open_runtime(model, log) as runtime:
        session = await runtime.create_session("walrus")
        await runtime.send(session, MessageRequest(content="hi"))
        await gate.reached.wait()
        await trio.sleep(0.3)
        assert await log.read(read_draft, session) == Draft(turn=1, round=1, text="so far")
        gate.released.set()
        assert await runtime.wait(session, {"idle"}) == "idle"
        assert await log.read(read_draft, session) is None
