"""Two things at once: what may overtake what, and what must not. Each was wrong once."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tests.fakes.held_log import HeldLog
from tests.fakes.model import FakeModel, Gate, fails, in_turn, says
from walrus_protocol.content import Assistant, User
from walrus_protocol.events import InterruptRequested
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelFailed, ModelRequest, Reply, Say
from walrusd.runtime.inbox import INBOX, Incoming
from walrusd.runtime.record import Beside
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.tickets import Ticket
from walrusd.session.mend import Draft, OnRestart
from walrusd.store.log import StorageFull
from walrusd.store.memory import MemoryLog


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def log() -> HeldLog:
    return HeldLog()


@pytest.fixture
async def runtime(model: FakeModel, log: HeldLog) -> AsyncIterator[Runtime]:
    async with Runtime(model, log=log, max_running_turns=1) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        yield runtime


async def test_a_forced_close_that_meets_a_close_under_way_closes_once(runtime: Runtime, log: HeldLog) -> None:
    session = await runtime.create_session("walrus")
    log.holds = True
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
    assert await log.queue(session) == []
    assert await log.unfinished() == []


async def test_a_close_that_waits_behind_another_leaves_nothing_in_the_inbox(
    model: FakeModel, runtime: Runtime, log: HeldLog
) -> None:
    model.speak = gate = Gate()
    session = await runtime.create_session("walrus")
    ticket = await runtime.send(session, Incoming(content="hi"))
    await runtime.close_session(session)
    gate.opened.set()
    await ticket.outcome()
    log.holds = True
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: runtime.close_session(session, force=True))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    assert await runtime.wait(session, {"closed"}) == "closed"
    await trio.testing.wait_all_tasks_blocked()
    assert await log.unfinished() == []


async def test_a_forced_close_needs_no_slot(model: FakeModel, runtime: Runtime) -> None:
    model.speak = Gate()
    busy, waiting = await runtime.create_session("walrus"), await runtime.create_session("walrus")
    await runtime.send(busy, Incoming(content="long"))
    ticket = await runtime.send(waiting, Incoming(content="behind it"))
    await trio.testing.wait_all_tasks_blocked()
    assert runtime.running == 1
    with trio.fail_after(5):
        assert await runtime.close_session(waiting, force=True)
    assert (await ticket.outcome()).stop_reason == "interrupted"


async def test_a_forced_close_is_told_when_the_store_keeps_it_from_its_end(
    model: FakeModel, runtime: Runtime, log: HeldLog
) -> None:
    model.speak = gate = Gate("half")
    session = await runtime.create_session("walrus")
    await runtime.send(session, Incoming(content="hi"))
    await gate.reached.wait()
    log.fail_with = StorageFull("no space left")
    with trio.fail_after(5), pytest.raises(Problem) as refused:
        await runtime.close_session(session, force=True)
    assert refused.value.kind == "storage_full"
    log.fail_with = None


async def test_a_message_that_interrupts_while_the_store_fails_is_not_there_and_its_key_is_free(
    model: FakeModel, runtime: Runtime, log: HeldLog
) -> None:
    gate = Gate()
    model.speak = in_turn(gate, says("paid"))
    session = await runtime.create_session("walrus")
    running = await runtime.send(session, Incoming(content="long"))
    pay = Incoming(content="pay 100", key="k", when_busy="interrupt")
    log.fail_with = StorageFull("no space left")
    with pytest.raises(Problem):
        await runtime.send(session, pay)
    log.fail_with = None
    gate.opened.set()
    await running.outcome()
    first = await (await runtime.send(session, pay)).outcome()
    again = await (await runtime.send(session, pay)).outcome()
    assert (first.turn, again) == (2, first)


async def test_a_message_that_interrupts_cuts_off_a_turn_that_is_just_being_opened(
    model: FakeModel, runtime: Runtime, log: HeldLog
) -> None:
    gate = Gate()
    model.speak = in_turn(gate, says("urgent"))
    session = await runtime.create_session("walrus")
    tickets: dict[str, Ticket] = {}
    log.holds = True

    async def send(content: str, **how: str) -> None:
        tickets[content] = await runtime.send(session, Incoming(content=content, **how))  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: send("urgent", when_busy="interrupt"))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    gate.opened.set()
    assert (await tickets["first"].outcome()).stop_reason == "interrupted"
    assert (await tickets["urgent"].outcome()).turn == 2


async def test_an_interrupt_that_comes_before_the_done_is_recorded_decides_how_the_turn_ends(
    model: FakeModel, runtime: Runtime, log: HeldLog
) -> None:
    model.speak = gate = Gate()
    session = await runtime.create_session("walrus")
    ticket = await runtime.send(session, Incoming(content="hi"))
    await gate.reached.wait()
    live = await runtime.live(session)
    log.holds = True
    live.recorder.submit(beside=Beside(draft=Draft(turn=1, round=1)))  # under way: what follows joins the next write
    live.recorder.submit(InterruptRequested(by="test"))
    gate.opened.set()
    await trio.testing.wait_all_tasks_blocked()
    log.release()
    assert (await ticket.outcome()).text == "ok"
    assert (await ticket.outcome()).stop_reason == "interrupted"


async def test_a_draft_that_comes_too_late_is_no_answer_of_the_next_turn(
    model: FakeModel, runtime: Runtime, log: HeldLog
) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "one")
    live = await runtime.live(session)
    model.speak = gate = Gate()
    log.holds = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.send, session, Incoming(content="two"))
        await trio.testing.wait_all_tasks_blocked()
        live.recorder.submit(beside=Beside(draft=Draft(turn=1, round=1, text="of turn one")))
        log.release()
    await gate.reached.wait()
    assert await log.draft(session) is None


async def test_a_send_that_is_accepted_as_the_last_is_told_of_the_stop(
    model: FakeModel, runtime: Runtime, log: HeldLog
) -> None:
    session = await runtime.create_session("walrus")
    log.holds = True
    tickets: list[Ticket] = []

    async def send() -> None:
        tickets.append(await runtime.send(session, Incoming(content="hi")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await runtime.stop(grace_s=0)
        log.release()
    with trio.fail_after(5), pytest.raises(Problem) as refused:
        await tickets[0].outcome()
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
    model, log = FakeModel(Gate()), MemoryLog()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="gone"))
        session = await runtime.create_session("gone")
        await runtime.send(session, Incoming(content="hi", key="k"))
    async with Runtime(model, log=MemoryLog(log.disk), on_restart=on_restart) as runtime:
        await runtime.recover()
        result = await (await runtime.send(session, Incoming(content="hi", key="k"))).outcome()
        assert (result.stop_reason, result.error and result.error.kind) == ended
        with pytest.raises(Problem) as refused:
            await runtime.send(session, Incoming(content="more"))
        assert refused.value.kind == "agent_not_found"


async def test_a_model_that_says_what_no_log_can_carry_harms_its_own_turn_only(
    model: FakeModel, runtime: Runtime
) -> None:
    model.speak = in_turn(says("half a pair \ud83d"), says("whole"))
    session = await runtime.create_session("walrus")
    broken = await runtime.send_to(session, "hi")
    assert broken.stop_reason == "error"
    assert (await runtime.send_to(session, "again")).final_response == "whole"


async def test_a_call_that_may_have_cost_money_makes_the_cost_unknown_and_a_refused_one_does_not(
    model: FakeModel, runtime: Runtime
) -> None:
    session = await runtime.create_session("walrus")
    model.speak = fails(ModelFailed("provider_auth", "no"))
    await runtime.send_to(session, "hi")
    assert (await runtime.session(session)).cost_usd == 0.0
    model.speak = fails(ModelFailed("provider_timeout", "silence"))
    await runtime.send_to(session, "hi")
    assert (await runtime.session(session)).cost_usd is None


async def test_a_call_that_was_cut_off_before_its_first_word_is_counted_and_not_shown_to_the_model(
    model: FakeModel, runtime: Runtime
) -> None:
    async def silent(_: ModelRequest, __: Say) -> Reply:
        reached.set()
        await trio.sleep_forever()
        raise AssertionError

    reached = trio.Event()
    session = await runtime.create_session("walrus")
    model.speak = silent
    ticket = await runtime.send(session, Incoming(content="hi"))
    await reached.wait()
    await runtime.interrupt(session)
    result = await ticket.outcome()
    assert (result.rounds, result.cost_usd) == (1, None)
    model.speak = says("ok")
    await runtime.send_to(session, "again")
    assert model.asked[1] == [User("hi"), User("again")]
    live = await runtime.live(session)
    assert live.session.history.messages[-1] == Assistant(content="ok")


async def test_an_inbox_has_room_for_all_it_promises_when_they_come_at_once(
    model: FakeModel, runtime: Runtime, log: HeldLog
) -> None:
    model.speak = gate = Gate()
    session = await runtime.create_session("walrus")
    tickets = [await runtime.send(session, Incoming(content="running"))]

    async def send() -> None:
        tickets.append(await runtime.send(session, Incoming(content="hi")))

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(INBOX // 2):
                nursery.start_soon(send)
                await trio.lowlevel.checkpoint()
    with pytest.raises(Problem, match="64 messages wait"):
        await runtime.send(session, Incoming(content="one too many"))
    gate.opened.set()
    assert [(await ticket.outcome()).text for ticket in tickets] == ["ok"] * (INBOX + 1)
