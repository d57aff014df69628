"""Tests idempotency keys: a retry returns the first result, also after a restart."""

from functools import partial

import pytest
import trio
import trio.testing

from tests.fakes.blocking_log import BlockingLog
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel, fails, in_turn, replies
from walrus_protocol.content import User
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelFailed
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.store.errors import StorageFull


def open_runtime(model: FakeModel, log: MemoryLog | None = None) -> Runtime:
    runtime = Runtime(model, log=log)
    runtime.add_agent(Agent(name="walrus"))
    return runtime


async def send_and_wait(runtime: Runtime, session: int, content: str, key: str) -> TurnResult:
    return await (await runtime.send(session, MessageRequest(content=content, key=key))).wait_result()


async def test_a_retry_returns_the_first_result_and_calls_no_model() -> None:
    model = FakeModel(in_turn(replies("once")))
    async with open_runtime(model) as runtime:
        session = await runtime.create_session("walrus")
        assert await send_and_wait(runtime, session, "hi", "k") == await send_and_wait(runtime, session, "hi", "k")
    assert len(model.requests) == 1


async def test_a_retry_after_a_close_and_a_restart_returns_the_first_error() -> None:
    model, log = FakeModel(in_turn(fails(ModelFailed("provider_quota", "out of credit")))), MemoryLog()
    async with open_runtime(model, log) as runtime:
        session = await runtime.create_session("walrus")
        first = await send_and_wait(runtime, session, "hi", "k")
        await runtime.close_session(session)
    async with open_runtime(model, MemoryLog(log)) as runtime:
        assert await send_and_wait(runtime, session, "hi", "k") == first
    assert first.error is not None


async def test_the_same_key_with_other_content_is_refused() -> None:
    async with open_runtime(FakeModel()) as runtime:
        session = await runtime.create_session("walrus")
        await send_and_wait(runtime, session, "hi", "k")
        with pytest.raises(Problem) as refused:
            await send_and_wait(runtime, session, "ho", "k")
        assert refused.value.kind == "key_reused"


@pytest.mark.parametrize("busy", [False, True])
async def test_concurrent_sends_with_one_key_share_one_turn_whether_it_runs_or_is_queued(busy: bool) -> None:
    gate = BlockingReply()
    model = FakeModel(in_turn(*[gate] * (1 + busy)))
    results: list[TurnResult] = []
    async with open_runtime(model) as runtime:
        session = await runtime.create_session("walrus")
        if busy:
            await runtime.send(session, MessageRequest(content="first"))

        async def send() -> None:
            results.append(await send_and_wait(runtime, session, "hi", "k"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(send)
            await gate.reached.wait()
            gate.released.set()
    assert results == [results[0]] * 5
    assert len(model.requests) == 1 + busy


async def test_a_key_whose_message_was_refused_is_free_for_a_concurrent_message() -> None:
    log = BlockingLog()
    outcomes: dict[str, str] = {}
    async with open_runtime(FakeModel(), log) as runtime:
        session = await runtime.create_session("walrus")
        log.is_blocking, log.fail_with = True, StorageFull("no space left")

        async def send(content: str) -> None:
            try:
                await runtime.send(session, MessageRequest(content=content, key="k"))
                outcomes[content] = "accepted"
            except Problem as refused:
                outcomes[content] = refused.kind

        async with trio.open_nursery() as nursery:
            for content in ("first", "another"):
                nursery.start_soon(send, content)
                await trio.testing.wait_all_tasks_blocked()
            log.release_one()
            await trio.testing.wait_all_tasks_blocked()
            log.fail_with = None
            log.release()
    assert outcomes == {"first": "storage_full", "another": "accepted"}


async def test_keys_of_different_sessions_are_independent() -> None:
    async with open_runtime(FakeModel()) as runtime:
        one, two = await runtime.create_session("walrus"), await runtime.create_session("walrus")
        assert (await send_and_wait(runtime, one, "hi", "k")).session == one
        assert (await send_and_wait(runtime, two, "ho", "k")).session == two


async def test_a_queued_message_with_a_key_survives_a_restart_and_is_answered_once() -> None:
    model, log = FakeModel(BlockingReply()), MemoryLog()
    async with open_runtime(model, log) as runtime:
        session = await runtime.create_session("walrus")
        await runtime.send(session, MessageRequest(content="first"))
        await runtime.send(session, MessageRequest(content="second", key="k"))
    model.respond = replies("late")
    async with open_runtime(model, MemoryLog(log)) as runtime:
        await runtime.recover()
        result = await send_and_wait(runtime, session, "second", "k")
        assert (result.text, result.turn) == ("late", 2)
        assert await send_and_wait(runtime, session, "second", "k") == result
    assert [request[-1] for request in model.requests].count(User("second")) == 1


async def test_concurrent_creates_with_one_key_create_one_session() -> None:
    log = MemoryLog()
    created: list[int] = []
    async with open_runtime(FakeModel(), log) as runtime:
        create = partial(runtime.create_session, "walrus", "script", key="k")

        async def create_one() -> None:
            created.append(await create())

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(create_one)
        with pytest.raises(Problem) as refused:
            await runtime.create_session("walrus", "another script", key="k")
        assert refused.value.kind == "key_reused"
    async with open_runtime(FakeModel(), MemoryLog(log)) as runtime:
        created.append(await runtime.create_session("walrus", "script", key="k"))
    assert created == [1] * 5


async def test_a_session_is_found_by_its_key_after_its_agent_was_removed() -> None:
    log = MemoryLog()
    async with open_runtime(FakeModel(), log) as runtime:
        session = await runtime.create_session("walrus", key="k")
    async with Runtime(FakeModel(), log=MemoryLog(log)) as runtime:
        assert await runtime.create_session("walrus", key="k") == session
        with pytest.raises(Problem) as refused:
            await runtime.create_session("walrus", key="new")
        assert refused.value.kind == "agent_not_found"
        runtime.add_agent(Agent(name="walrus"))
        assert await runtime.create_session("walrus", key="new") == session + 1, (
            "a refused request does not use up its key"
        )
