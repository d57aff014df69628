"""Tests the session cache: unused sessions are evicted and loaded again without a visible difference."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from weakref import ref

import pytest
import trio

from tests.fakes.live_session import live_session
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel, replies
from tests.fakes.stores import SqliteDisk
from walrus_protocol.events import UserMessage
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.runtime.recording.recorder import TransactionExtras
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.sessions.session_cache import MAX_UNLEASED, MAX_UNLEASED_BYTES
from walrusd.runtime.turns.drafts import SAVE_INTERVAL_S
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.inbox import Enqueue, InboxEntry

IDLE_S = 60.0


@pytest.fixture(autouse=True)
def gc_disabled() -> Iterator[None]:
    """Disables the cycle collector: an evicted session must be freed at once, its reference cycles broken.

    The collector of the daemon runs rarely.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
async def runtime(model: FakeModel) -> AsyncIterator[Runtime]:
    async with Runtime(model, log=MemoryLog(), idle_evict_s=IDLE_S) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        yield runtime


def cached_sessions(runtime: Runtime) -> set[int]:
    return {live.id for live in runtime.session_cache.live_sessions()}


def can_be_deleted(runtime: Runtime, session: int) -> bool:
    with runtime.session_cache.try_delete([session]) as chosen:
        return chosen == [session]


async def test_an_idle_session_is_evicted_and_loaded_again_when_used(
    runtime: Runtime, model: FakeModel, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "hi")
    reference = ref(live_session(runtime, session))
    await trio.sleep(IDLE_S)
    assert reference() is not None, "it was used just under the idle limit ago"
    await trio.sleep(IDLE_S)
    assert reference() is None
    await runtime.send_to(session, "more")
    assert [len(request) for request in model.requests] == [1, 3]
    assert (await runtime.session(session)).messages == 4


async def test_a_recently_used_session_stays_in_memory(runtime: Runtime, autojump_clock: trio.abc.Clock) -> None:
    unused, used = await runtime.create_session("walrus"), await runtime.create_session("walrus")
    for _ in range(4):
        await trio.sleep(IDLE_S / 2)
        await runtime.fork_rewind.history(used)
    assert cached_sessions(runtime) == {used}
    assert unused not in cached_sessions(runtime)


async def test_the_number_of_sessions_in_memory_is_bounded(runtime: Runtime, autojump_clock: trio.abc.Clock) -> None:
    for _ in range(MAX_UNLEASED + 50):
        await runtime.send_to(await runtime.create_session("walrus"), "hi")
    await trio.sleep(2 * SAVE_INTERVAL_S)  # until then the task that saves drafts holds them
    assert cached_sessions(runtime) == set(range(51, MAX_UNLEASED + 51))


async def test_a_session_in_use_is_not_evicted_and_not_loaded_a_second_time(
    runtime: Runtime, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    async with runtime.session_cache.lease(session) as held:
        await trio.sleep(3 * IDLE_S)
        async with runtime.session_cache.lease(session) as live:
            assert live is held


async def test_a_subscriber_of_an_idle_session_gets_a_turn_that_starts_after_the_idle_limit(
    runtime: Runtime, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    async with runtime.session_cache.lease(session) as live:
        reader = live.stream.subscribe(1)
        await trio.sleep(3 * IDLE_S)
        await runtime.send_to(session, "hi")
        events = [item.event for item in await reader.next_batch()]
    assert isinstance(events[0], UserMessage)


async def test_a_turn_longer_than_the_idle_limit_runs_to_its_end(
    runtime: Runtime, model: FakeModel, autojump_clock: trio.abc.Clock
) -> None:
    model.respond = gate = BlockingReply(text_after="slow")
    session = await runtime.create_session("walrus")
    handle = await runtime.send(session, MessageRequest(content="hi"))
    await gate.reached.wait()
    queued = await runtime.send(session, MessageRequest(content="next"))
    model.respond = replies("quick")
    await trio.sleep(10 * IDLE_S)
    gate.released.set()
    assert ((await handle.wait_result()).text, (await queued.wait_result()).text) == ("slow", "quick")


async def test_an_evicted_session_still_recognises_an_idempotency_key(
    runtime: Runtime, model: FakeModel, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    first = await (await runtime.send(session, MessageRequest(content="hi", key="k"))).wait_result()
    await trio.sleep(3 * IDLE_S)
    assert cached_sessions(runtime) == set()
    assert await (await runtime.send(session, MessageRequest(content="hi", key="k"))).wait_result() == first
    assert len(model.requests) == 1


async def test_concurrent_loads_of_an_evicted_session_get_the_same_object(
    runtime: Runtime, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "hi")
    await trio.sleep(3 * IDLE_S)
    loaded = []
    all_loaded = trio.Event()

    async def load() -> None:
        async with runtime.session_cache.lease(session) as live:
            loaded.append(live)
            await all_loaded.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(load)
        await trio.testing.wait_all_tasks_blocked()
        all_loaded.set()
    assert {id(live) for live in loaded} == {id(loaded[0])}


async def test_a_lookup_of_a_session_during_its_creation_finds_it_or_fails_cleanly(runtime: Runtime) -> None:
    async def look_up(session: int) -> None:
        with suppress(Problem):
            assert (await runtime.session(session)).id == session
            await runtime.fork_rewind.history(session)

    for session in range(1, 21):
        async with trio.open_nursery() as nursery:  # trio starts them in random order
            nursery.start_soon(look_up, session)
            nursery.start_soon(runtime.create_session, "walrus")
            nursery.start_soon(look_up, session)
        assert live_session(runtime, session).id == session


async def test_the_session_of_the_last_write_can_be_evicted(tmp_path: Path) -> None:
    log = await SqliteDisk(tmp_path).open()
    async with Runtime(FakeModel(), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.fork_rewind.rewind(session, 1)
        assert can_be_deleted(runtime, session)
    await log.aclose()


async def test_no_timer_runs_while_nothing_is_cached(runtime: Runtime, autojump_clock: trio.abc.Clock) -> None:
    await runtime.create_session("walrus")
    await trio.sleep(3 * IDLE_S)
    assert cached_sessions(runtime) == set()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")


async def send_with_key(runtime: Runtime, session: int) -> None:
    await runtime.send(session, MessageRequest(content="other", key="k"))


REFUSED_REQUESTS: dict[str, tuple[str, Callable[[Runtime, int], Awaitable[object]]]] = {
    "a checkpoint of a closed session": (
        "closed",
        lambda runtime, session: runtime.fork_rewind.checkpoint(session, "x"),
    ),
    "a message to a closed session": ("closed", lambda runtime, session: runtime.send_to(session, "more")),
    "a rewind of a closed session": ("closed", lambda runtime, session: runtime.fork_rewind.rewind(session, 1)),
    "a rewind beyond its end": ("open", lambda runtime, session: runtime.fork_rewind.rewind(session, 99)),
    "a fork beyond its end": ("open", lambda runtime, session: runtime.fork_rewind.fork(session, 99)),
    "a key for another message": ("open", send_with_key),
    "a checkpoint on a full disk": ("full", lambda runtime, session: runtime.fork_rewind.checkpoint(session, "x")),
    "a message on a full disk": ("full", lambda runtime, session: runtime.send_to(session, "more")),
    "a rewind on a full disk": ("full", lambda runtime, session: runtime.fork_rewind.rewind(session, 1)),
    "a close on a full disk": ("full", lambda runtime, session: runtime.close_session(session)),
}


@pytest.mark.parametrize(("state", "send_refused"), REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS)
async def test_a_session_can_be_evicted_and_is_freed_after_one_of_its_requests_was_refused(
    state: str,
    send_refused: Callable[[Runtime, int], Awaitable[object]],
    runtime: Runtime,
    autojump_clock: trio.abc.Clock,
) -> None:
    session = await runtime.create_session("walrus")
    await (await runtime.send(session, MessageRequest(content="hi", key="k"))).wait_result()
    if state == "closed":
        await runtime.close_session(session)
    memory = ref(live_session(runtime, session))
    await trio.sleep(2 * SAVE_INTERVAL_S)
    assert isinstance(runtime.log, MemoryLog)
    runtime.log.fail_with = StorageFailed("no answer") if state == "full" else None
    with pytest.raises(Problem) as refused:
        await send_refused(runtime, session)
    del refused
    runtime.log.fail_with = None
    assert can_be_deleted(runtime, session)
    assert memory() is None


def count_in_memory() -> int:
    return sum(isinstance(one, LiveSession) for one in gc.get_objects())


async def test_a_session_that_cannot_be_created_leaves_nothing_in_memory(runtime: Runtime) -> None:
    assert isinstance(runtime.log, MemoryLog)
    runtime.log.fail_with = StorageFailed("no space")
    before = count_in_memory()
    for _ in range(3):
        with suppress(Problem):
            await runtime.create_session("walrus")
    assert count_in_memory() == before


async def test_a_session_that_cannot_be_loaded_completely_leaves_nothing_in_memory(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await runtime.create_session("walrus")
    async with runtime.session_cache.lease(session) as live:
        entry = InboxEntry(place=1, kind="message", content="hi", sender="", key="k")
        await live.recorder.record(extras=TransactionExtras(mutations=(Enqueue(entry),)))
    del live
    assert can_be_deleted(runtime, session)  # evicts it
    before = count_in_memory()

    async def fail(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StorageFailed("no answer")

    monkeypatch.setattr(runtime.log, "read", fail)
    for _ in range(3):
        with suppress(Problem):
            await runtime.interrupt(session)
    assert count_in_memory() == before


async def create_session_of_size(runtime: Runtime, size: int) -> int:
    session = await runtime.create_session("walrus")
    async with runtime.session_cache.lease(session) as live:
        live.size = size
    return session


async def test_a_large_session_evicts_several_others_but_never_itself(runtime: Runtime) -> None:
    for _ in range(4):
        await create_session_of_size(runtime, MAX_UNLEASED_BYTES // 4)
    assert cached_sessions(runtime) == {1, 2, 3, 4}
    await create_session_of_size(runtime, MAX_UNLEASED_BYTES // 2)
    assert cached_sessions(runtime) == {3, 4, 5}
    await create_session_of_size(runtime, 2 * MAX_UNLEASED_BYTES)
    assert cached_sessions(runtime) == {6}


async def test_a_session_that_has_grown_counts_with_its_current_size(runtime: Runtime) -> None:
    growing = await create_session_of_size(runtime, 10)
    await create_session_of_size(runtime, 10)
    async with runtime.session_cache.lease(growing) as live:
        live.size = MAX_UNLEASED_BYTES
    assert cached_sessions(runtime) == {growing}


async def test_sessions_with_a_lease_do_not_count_towards_the_limits(runtime: Runtime) -> None:
    sessions = [await create_session_of_size(runtime, 10) for _ in range(5)]
    async with AsyncExitStack() as leases:
        for session in sessions:
            (await leases.enter_async_context(runtime.session_cache.lease(session))).size = MAX_UNLEASED_BYTES
        assert cached_sessions(runtime) == {*sessions}
    assert cached_sessions(runtime) == {sessions[0]}, "the last one that was given back"


async def test_the_size_of_a_session_is_that_of_its_log(runtime: Runtime, autojump_clock: trio.abc.Clock) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "hi")
    size = live_session(runtime, session).size
    rows = await runtime.log.events(session, 0, 100)
    await trio.sleep(3 * IDLE_S)
    assert size == sum(len(row.body) for row in rows)
    async with runtime.session_cache.lease(session) as live:
        assert live.size == size
