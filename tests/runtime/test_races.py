"""Tests races between concurrent requests and writes. Each of them was once a bug."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tests.fakes.blocking_log import BlockingLog
from tests.fakes.live_session import live_session
from tests.fakes.memory_log import MemoryLog
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
from walrusd.store.errors import StorageFull
from walrusd.store.tables.draft import SaveDraft, read_draft
from walrusd.store.tables.inbox import read_inbox
from walrusd.store.tables.session import read_unfinished_sessions


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


async def test_a_forced_close_during_another_close_closes_once(runtime: Runtime, log: BlockingLog) -> None:
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
    assert await log.read(read_inbox, session) == []
    assert await log.read(read_unfinished_sessions) == []


async def test_a_close_after_a_queued_close_leaves_nothing_in_the_inbox(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    model.respond = gate = BlockingReply()
    session = await runtime.create_session("walrus")
    handle = await runtime.send(session, MessageRequest(content="hi"))
    await runtime.close_session(session)
    gate.released.set()
    await handle.wait_result()
    log.is_blocking = True
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: runtime.close_session(session, force=True))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    assert await runtime.wait(session, {"closed"}) == "closed"
    await trio.testing.wait_all_tasks_blocked()
    assert await log.read(read_unfinished_sessions) == []


async def test_a_forced_close_does_not_wait_for_a_slot(model: FakeModel, runtime: Runtime) -> None:
    model.respond = BlockingReply()
    busy, waiting = await runtime.create_session("walrus"), await runtime.create_session("walrus")
    await runtime.send(busy, MessageRequest(content="long"))
    handle = await runtime.send(waiting, MessageRequest(content="waiting"))
    await trio.testing.wait_all_tasks_blocked()
    assert runtime.running_turns == 1
    with trio.fail_after(5):
        assert await runtime.close_session(waiting, force=True)
    assert (await handle.wait_result()).stop_reason == "interrupted"


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


async def test_an_interrupting_message_that_the_store_refuses_leaves_its_key_free(
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
    retried = await (await runtime.send(session, pay)).wait_result()
    assert (first.turn, retried) == (2, first)


async def test_an_interrupting_message_interrupts_a_turn_that_is_just_being_opened(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    gate = BlockingReply()
    model.respond = in_turn(gate, replies("urgent"))
    session = await runtime.create_session("walrus")
    handles: dict[str, TurnHandle] = {}
    log.is_blocking = True

    async def send(content: str, **options: str) -> None:
        handles[content] = await runtime.send(session, MessageRequest(content=content, **options))  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: send("urgent", when_busy="interrupt"))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
    gate.released.set()
    assert (await handles["first"].wait_result()).stop_reason == "interrupted"
    assert (await handles["urgent"].wait_result()).turn == 2


async def test_an_interrupt_before_the_done_is_recorded_ends_the_turn_as_interrupted(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    model.respond = gate = BlockingReply()
    session = await runtime.create_session("walrus")
    handle = await runtime.send(session, MessageRequest(content="hi"))
    await gate.reached.wait()
    live = live_session(runtime, session)
    log.is_blocking = True
    # This write stays in progress, so that later events join the next one.
    live.recorder.submit(extras=TransactionExtras(mutations=(SaveDraft(Draft(turn=1, round=1)),)))
    live.recorder.submit(InterruptRequested(by="test"))
    gate.released.set()
    await trio.testing.wait_all_tasks_blocked()
    log.release()
    assert (await handle.wait_result()).text == "ok"
    assert (await handle.wait_result()).stop_reason == "interrupted"


async def test_a_late_draft_of_an_earlier_turn_is_not_kept_for_the_next_turn(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "one")
    live = live_session(runtime, session)
    model.respond = gate = BlockingReply()
    log.is_blocking = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.send, session, MessageRequest(content="two"))
        await trio.testing.wait_all_tasks_blocked()
        live.recorder.submit(
            extras=TransactionExtras(mutations=(SaveDraft(Draft(turn=1, round=1, text="of turn one")),))
        )
        log.release()
    await gate.reached.wait()
    assert await log.read(read_draft, session) is None


async def test_a_send_accepted_right_before_a_stop_fails_with_shutting_down(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    session = await runtime.create_session("walrus")
    log.is_blocking = True
    handles: list[TurnHandle] = []

    async def send() -> None:
        handles.append(await runtime.send(session, MessageRequest(content="hi")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await runtime.stop(grace_s=0)
        log.release()
    with trio.fail_after(5), pytest.raises(Problem) as refused:
        await handles[0].wait_result()
    assert refused.value.kind == "shutting_down"
    assert await log.read(read_draft, session) == Draft(turn=1, round=0, suspended=True), (
        "the stop does not count as a failed attempt of the turn"
    )


async def test_waiting_for_a_state_that_can_no_longer_come_is_refused(runtime: Runtime) -> None:
    session = await runtime.create_session("walrus")
    await runtime.close_session(session)
    with trio.fail_after(5), pytest.raises(Problem) as refused:
        await runtime.wait(session, {"idle"})
    assert refused.value.kind == "session_closed"


@pytest.mark.parametrize(
    ("on_restart", "expected"), [("continue", ("error", "internal")), ("close", ("interrupted", None))]
)
async def test_an_open_turn_of_a_removed_agent_ends_and_its_key_returns_the_result(
    on_restart: OnRestart, expected: tuple[str, str | None]
) -> None:
    model, log = FakeModel(BlockingReply()), MemoryLog()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="removed"))
        session = await runtime.create_session("removed")
        await runtime.send(session, MessageRequest(content="hi", key="k"))
    async with Runtime(model, log=MemoryLog(log), on_restart=on_restart) as runtime:
        await runtime.recover()
        result = await (await runtime.send(session, MessageRequest(content="hi", key="k"))).wait_result()
        assert (result.stop_reason, result.error and result.error.kind) == expected
        with pytest.raises(Problem) as refused:
            await runtime.send(session, MessageRequest(content="more"))
        assert refused.value.kind == "agent_not_found"


async def test_a_reply_that_cannot_be_encoded_fails_its_own_turn_only(model: FakeModel, runtime: Runtime) -> None:
    model.respond = in_turn(replies("half a pair \ud83d"), replies("whole"))
    session = await runtime.create_session("walrus")
    failed = await runtime.send_to(session, "hi")
    assert failed.stop_reason == "error"
    assert (await runtime.send_to(session, "again")).final_response == "whole"


async def test_a_rejected_model_call_costs_nothing_and_a_timed_out_one_an_unknown_amount(
    model: FakeModel, runtime: Runtime
) -> None:
    session = await runtime.create_session("walrus")
    model.respond = fails(ModelFailed("provider_auth", "no"))
    await runtime.send_to(session, "hi")
    assert (await runtime.session(session)).cost_usd == 0.0
    model.respond = fails(ModelFailed("provider_timeout", "no answer"))
    await runtime.send_to(session, "hi")
    assert (await runtime.session(session)).cost_usd is None


async def test_a_model_call_interrupted_before_its_first_token_is_counted_and_not_shown(
    model: FakeModel, runtime: Runtime
) -> None:
    async def hang(_: ModelRequest, __: OnChunk) -> Reply:
        reached.set()
        await trio.sleep_forever()
        raise AssertionError

    reached = trio.Event()
    session = await runtime.create_session("walrus")
    model.respond = hang
    handle = await runtime.send(session, MessageRequest(content="hi"))
    await reached.wait()
    await runtime.interrupt(session)
    result = await handle.wait_result()
    assert (result.rounds, result.cost_usd) == (1, None)
    model.respond = replies("ok")
    await runtime.send_to(session, "again")
    assert model.requests[1] == [User("hi"), User("again")]
    live = live_session(runtime, session)
    assert live.session.history.messages[-1] == Assistant(content="ok")


async def test_concurrent_messages_fill_an_inbox_up_to_its_limit(
    model: FakeModel, runtime: Runtime, log: BlockingLog
) -> None:
    model.respond = gate = BlockingReply()
    session = await runtime.create_session("walrus")
    handles = [await runtime.send(session, MessageRequest(content="running"))]

    async def send() -> None:
        handles.append(await runtime.send(session, MessageRequest(content="hi")))

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_QUEUED_MESSAGES // 2):
                nursery.start_soon(send)
                await trio.lowlevel.checkpoint()
    with pytest.raises(Problem, match="64 queued messages"):
        await runtime.send(session, MessageRequest(content="one too many"))
    gate.released.set()
    assert [(await handle.wait_result()).text for handle in handles] == ["ok"] * (MAX_QUEUED_MESSAGES + 1)


async def test_queued_messages_are_answered_after_a_bug_has_ended_the_worker_of_their_session() -> None:
    has_bug, queued = True, trio.Event()

    def redact(text: str) -> str:
        if has_bug:
            raise RuntimeError(text)
        return text

    async def crash(_: ModelRequest, __: OnChunk) -> Reply:
        await queued.wait()
        raise RuntimeError("a bug")

    model = FakeModel(in_turn(crash, replies("first"), replies("second"), replies("third")))
    async with Runtime(model, log=MemoryLog(), redact=redact) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        handles = [await runtime.send(session, MessageRequest(content=text)) for text in ("one", "two")]
        queued.set()
        for handle in handles:
            with pytest.raises(Problem, match="met a bug in this session"):
                await handle.wait_result()
        has_bug = False
        assert (await runtime.send_to(session, "three")).final_response == "third"
        assert await runtime.close_session(session, force=True)
