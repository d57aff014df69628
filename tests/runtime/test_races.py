"""Two things at once: what may overtake what, and what must not. Each was wrong once."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tests.fakes.blocking_log import BlockingLog
from tests.fakes.model import BlockingReply, FakeModel, fails, in_turn, replies
from walrus_protocol.content import Assistant, User
from walrus_protocol.events import InterruptRequested
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply
from walrusd.runtime.recording.recorder import TransactionExtras
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MAX_QUEUED_MESSAGES, MessageRequest
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.session.recovery import Draft, OnRestart
from walrusd.store.contract import StorageFull
from walrusd.store.memory import MemoryLog


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def log() -> BlockingLog:
    return BlockingLog()


@pytest.fixture
async def runtime(model: FakeModel, log: BlockingLog) -> AsyncIterator[Runtime]:
    async with Runtime(model, log=log, max_running_turns=1) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        yield runtime


async def test_a_forced_close_that_meets_a_close_under_way_closes_once(runtime: Runtime, log: BlockingLog) -> None:
    session = await runtime.create_session("walrus")
    log.is_blocking = True
    closed: list[bool] = []

    async def close(force: bool) -> None:
        closed.append(await runtime.close_session(session, force=force))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close, False)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(close, True)
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    assert sorted(closed) == [False, True]
    assert await log.inbox(session) == []
    assert await log.unfinished_sessions() == []


async def test_a_close_that_waits_behind_another_leaves_nothing_in_the_inbox(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    model.respond = gate = BlockingReply()
    session = await runtime.create_session("walrus")
    ticket = await runtime.send(session, MessageRequest(content="hi"))
    await runtime.close_session(session)
    gate.released.set()
    await ticket.wait_result()
    log.is_blocking = True
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: runtime.close_session(session, force=True))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    assert await runtime.wait(session, {"closed"}) == "closed"
    await trio.testing.wait_all_tasks_blocked()
    assert await log.unfinished_sessions() == []


async def test_a_forced_close_needs_no_slot(model: FakeModel, runtime: Runtime) -> None:
    model.respond = BlockingReply()
    busy, waiting = await runtime.create_session("walrus"), await runtime.create_session("walrus")
    await runtime.send(busy, MessageRequest(content="long"))
    ticket = await runtime.send(waiting, MessageRequest(content="behind it"))
    await trio.testing.wait_all_tasks_blocked()
    assert runtime.running_turns == 1
    with trio.fail_after(5):
        assert await runtime.close_session(waiting, force=True)
    assert (await ticket.wait_result()).stop_reason == "interrupted"


async def test_a_forced_close_fails_with_the_storage_error_that_prevents_it(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    model.respond = gate = BlockingReply("half")
    session = await runtime.create_session("walrus")
    await runtime.send(session, MessageRequest(content="hi"))
    await gate.reached.wait()
    log.fail_with = StorageFull("no space left")
    with trio.fail_after(5), pytest.raises(Problem) as refused:
        await runtime.close_session(session, force=True)
    assert refused.value.kind == "storage_full"
    log.fail_with = None


async def test_a_message_that_interrupts_while_the_store_fails_is_not_there_and_its_key_is_free(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    gate = BlockingReply()
    model.respond = in_turn(gate, replies("paid"))
    session = await runtime.create_session("walrus")
    running = await runtime.send(session, MessageRequest(content="long"))
    pay = MessageRequest(content="pay 100", key="k", when_busy="interrupt")
    log.fail_with = StorageFull("no space left")
    with pytest.raises(Problem):
        await runtime.send(session, pay)
    log.fail_with = None
    gate.released.set()
    await running.wait_result()
    first = await (await runtime.send(session, pay)).wait_result()
    again = await (await runtime.send(session, pay)).wait_result()
    assert (first.turn, again) == (2, first)


async def test_a_message_that_interrupts_cuts_off_a_turn_that_is_just_being_opened(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    gate = BlockingReply()
    model.respond = in_turn(gate, replies("urgent"))
    session = await runtime.create_session("walrus")
    tickets: dict[str, TurnHandle] = {}
    log.is_blocking = True

    async def send(content: str, **how: str) -> None:
        tickets[content] = await runtime.send(session, MessageRequest(content=content, **how))  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: send("urgent", when_busy="interrupt"))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    gate.released.set()
    assert (await tickets["first"].wait_result()).stop_reason == "interrupted"
    assert (await tickets["urgent"].wait_result()).turn == 2


async def test_an_interrupt_that_comes_before_the_done_is_recorded_decides_how_the_turn_ends(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    model.respond = gate = BlockingReply()
    session = await runtime.create_session("walrus")
    ticket = await runtime.send(session, MessageRequest(content="hi"))
    await gate.reached.wait()
    live = await runtime.live_session(session)
    log.is_blocking = True
    live.recorder.submit(
        extras=TransactionExtras(draft=Draft(turn=1, round=1))
    )  # under way: what follows joins the next write
    live.recorder.submit(InterruptRequested(by="test"))
    gate.released.set()
    await trio.testing.wait_all_tasks_blocked()
    log.release()
    assert (await ticket.wait_result()).text == "ok"
    assert (await ticket.wait_result()).stop_reason == "interrupted"


async def test_a_draft_that_comes_too_late_is_no_answer_of_the_next_turn(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "one")
    live = await runtime.live_session(session)
    model.respond = gate = BlockingReply()
    log.is_blocking = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.send, session, MessageRequest(content="two"))
        await trio.testing.wait_all_tasks_blocked()
        live.recorder.submit(extras=TransactionExtras(draft=Draft(turn=1, round=1, text="of turn one")))
        log.release()
    await gate.reached.wait()
    assert await log.draft(session) is None


async def test_a_send_accepted_right_before_a_stop_fails_with_shutting_down(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    log.is_blocking = True
    tickets: list[TurnHandle] = []

    async def send() -> None:
        tickets.append(await runtime.send(session, MessageRequest(content="hi")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await runtime.stop(grace_s=0)
        log.release()
    with trio.fail_after(5), pytest.raises(Problem) as refused:
        await tickets[0].wait_result()
    assert refused.value.kind == "shutting_down"
    assert await log.draft(session) == Draft(turn=1, round=0, suspended=True), "its turn is not to blame for the end"


async def test_waiting_for_a_state_that_can_no_longer_come_is_refused(runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    await runtime.close_session(session)
    with trio.fail_after(5), pytest.raises(Problem) as refused:
        await runtime.wait(session, {"idle"})
    assert refused.value.kind == "session_closed"


@pytest.mark.parametrize(
    ("on_restart", "ended"), [("continue", ("error", "internal")), ("close", ("interrupted", None))]
)
async def test_a_turn_left_open_by_an_agent_that_is_gone_ends_and_its_key_still_answers(
    on_restart: OnRestart, ended: tuple[str, str | None]
) -> None:
    model, log = FakeModel(BlockingReply()), MemoryLog()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="gone"))
        session = await runtime.create_session("gone")
        await runtime.send(session, MessageRequest(content="hi", key="k"))
    async with Runtime(model, log=MemoryLog(log.tables), on_restart=on_restart) as runtime:
        await runtime.recover()
        result = await (await runtime.send(session, MessageRequest(content="hi", key="k"))).wait_result()
        assert (result.stop_reason, result.error and result.error.kind) == ended
        with pytest.raises(Problem) as refused:
            await runtime.send(session, MessageRequest(content="more"))
        assert refused.value.kind == "agent_not_found"


async def test_a_reply_that_cannot_be_encoded_fails_its_own_turn_only(model: FakeModel, runtime: Runtime) -> None:
    model.respond = in_turn(replies("half a pair \ud83d"), replies("whole"))
    session = await runtime.create_session("walrus")
    broken = await runtime.send_to(session, "hi")
    assert broken.stop_reason == "error"
    assert (await runtime.send_to(session, "again")).final_response == "whole"


async def test_a_call_that_may_have_cost_money_makes_the_cost_unknown_a_rejected_one_not(
    model: FakeModel, runtime: Runtime
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = fails(ModelFailed("provider_auth", "no"))
    await runtime.send_to(session, "hi")
    assert (await runtime.session(session)).cost_usd == 0.0
    model.respond = fails(ModelFailed("provider_timeout", "silence"))
    await runtime.send_to(session, "hi")
    assert (await runtime.session(session)).cost_usd is None


async def test_a_call_cut_off_before_its_first_token_is_counted_and_hidden_from_the_model(
    model: FakeModel, runtime: Runtime
) -> None:
    async def silent(_: ModelRequest, __: OnChunk) -> Reply:
        reached.set()
        await trio.sleep_forever()
        raise AssertionError

    reached = trio.Event()
    session = await runtime.create_session("walrus")
    model.respond = silent
    ticket = await runtime.send(session, MessageRequest(content="hi"))
    await reached.wait()
    await runtime.interrupt(session)
    result = await ticket.wait_result()
    assert (result.rounds, result.cost_usd) == (1, None)
    model.respond = replies("ok")
    await runtime.send_to(session, "again")
    assert model.requests[1] == [User("hi"), User("again")]
    live = await runtime.live_session(session)
    assert live.session.history.messages[-1] == Assistant(content="ok")


async def test_an_inbox_has_room_for_all_it_promises_when_they_come_at_once(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    model.respond = gate = BlockingReply()
    session = await runtime.create_session("walrus")
    tickets = [await runtime.send(session, MessageRequest(content="running"))]

    async def send() -> None:
        tickets.append(await runtime.send(session, MessageRequest(content="hi")))

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_QUEUED_MESSAGES // 2):
                nursery.start_soon(send)
                await trio.lowlevel.checkpoint()
    with pytest.raises(Problem, match="64 queued messages"):
        await runtime.send(session, MessageRequest(content="one too many"))
    gate.released.set()
    assert [(await ticket.wait_result()).text for ticket in tickets] == ["ok"] * (MAX_QUEUED_MESSAGES + 1)
