"""Months: what is not used leaves the memory, and nobody notices but the memory."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from weakref import ref

import pytest
import trio

from tests.fakes.model import FakeModel, Gate, says
from tests.fakes.stores import SqliteDisk
from walrus_protocol.events import UserMessage
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.runtime.drafts import INTERVAL
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.kept import MOST, MOST_BYTES, Kept
from walrusd.runtime.runtime import Runtime
from walrusd.store.log import StorageFailed
from walrusd.store.memory import MemoryLog

IDLE_S = 60.0


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What is let go has to be free at once: the daemon's collector looks for cycles only now and then."""
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


def in_memory(runtime: Runtime) -> set[int]:
    return {live.id for live in runtime.sessions_in_memory.live()}


async def test_a_session_that_nobody_uses_leaves_the_memory_and_goes_on_when_asked(
    runtime: Runtime, model: FakeModel, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "hi")
    there = ref(await runtime.live(session))
    await trio.sleep(IDLE_S)
    assert there() is not None, "it was used a moment less than that ago"
    await trio.sleep(IDLE_S)
    assert there() is None
    await runtime.send_to(session, "more")
    assert [len(asked) for asked in model.asked] == [1, 3]
    assert (await runtime.session(session)).messages == 4


async def test_what_was_used_lately_stays(runtime: Runtime, autojump_clock: trio.abc.Clock) -> None:
    old, used = await runtime.create_session("walrus"), await runtime.create_session("walrus")
    for _ in range(4):
        await trio.sleep(IDLE_S / 2)
        await runtime.live(used)
    assert in_memory(runtime) == {used}
    assert old not in in_memory(runtime)


async def test_ten_thousand_sessions_are_not_held(runtime: Runtime, autojump_clock: trio.abc.Clock) -> None:
    for _ in range(MOST + 50):
        await runtime.send_to(await runtime.create_session("walrus"), "hi")
    await trio.sleep(2 * INTERVAL)  # until then the task that saves drafts looks at them
    assert in_memory(runtime) == set(range(51, MOST + 51))


async def test_a_session_is_in_memory_once_as_long_as_somebody_holds_it(
    runtime: Runtime, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    held = await runtime.live(session)
    await trio.sleep(3 * IDLE_S)
    assert await runtime.live(session) is held


async def test_who_watches_an_idle_session_sees_the_turn_that_comes_days_later(
    runtime: Runtime, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    watched = await runtime.live(session)
    with watched.feed.reader(1) as reader:
        await trio.sleep(3 * IDLE_S)
        await runtime.send_to(session, "hi")
        seen = [item.event for item in await reader.batch()]
    assert isinstance(seen[0], UserMessage)


async def test_a_turn_that_takes_longer_than_that_is_not_disturbed(
    runtime: Runtime, model: FakeModel, autojump_clock: trio.abc.Clock
) -> None:
    model.speak = gate = Gate(then="slow")
    session = await runtime.create_session("walrus")
    ticket = await runtime.send(session, Incoming(content="hi"))
    await gate.reached.wait()
    queued = await runtime.send(session, Incoming(content="next"))
    model.speak = says("quick")
    await trio.sleep(10 * IDLE_S)
    gate.opened.set()
    assert ((await ticket.outcome()).text, (await queued.outcome()).text) == ("slow", "quick")


async def test_a_key_is_remembered_by_a_session_that_left_the_memory(
    runtime: Runtime, model: FakeModel, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    first = await (await runtime.send(session, Incoming(content="hi", key="k"))).outcome()
    await trio.sleep(3 * IDLE_S)
    assert in_memory(runtime) == set()
    assert await (await runtime.send(session, Incoming(content="hi", key="k"))).outcome() == first
    assert len(model.asked) == 1


async def test_many_who_ask_at_once_for_a_session_that_left_get_the_same(
    runtime: Runtime, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "hi")
    await trio.sleep(3 * IDLE_S)
    found = []

    async def ask() -> None:
        found.append(await runtime.live(session))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert {id(live) for live in found} == {id(found[0])}


async def test_a_session_that_is_asked_for_while_it_is_made_is_there_or_is_not(runtime: Runtime) -> None:
    async def ask(session: int) -> None:
        with suppress(Problem):
            await runtime.live(session)

    for session in range(1, 21):
        async with trio.open_nursery() as nursery:  # in any order
            nursery.start_soon(ask, session)
            nursery.start_soon(runtime.create_session, "walrus")
            nursery.start_soon(ask, session)
        assert (await runtime.live(session)).id == session


async def test_a_session_that_was_the_last_to_be_written_leaves_the_memory(tmp_path: Path) -> None:
    log = await SqliteDisk(tmp_path).open()
    async with Runtime(FakeModel(), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.branches.rewind(session, 1)
        await log.pulse()  # the writer's thread lets go of a write with the next that comes
        assert runtime.sessions_in_memory.at_rest(session)
    await log.aclose()


async def test_nothing_wakes_up_while_nothing_is_kept(runtime: Runtime, autojump_clock: trio.abc.Clock) -> None:
    await runtime.create_session("walrus")
    await trio.sleep(3 * IDLE_S)
    assert in_memory(runtime) == set()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")


async def keyed(runtime: Runtime, session: int) -> None:
    await runtime.send(session, Incoming(content="other", key="k"))


REFUSED: dict[str, tuple[str, Callable[[Runtime, int], Awaitable[object]]]] = {
    "a checkpoint of a closed one": ("closed", lambda runtime, session: runtime.branches.checkpoint(session, "x")),
    "a message to a closed one": ("closed", lambda runtime, session: runtime.send_to(session, "more")),
    "a rewind of a closed one": ("closed", lambda runtime, session: runtime.branches.rewind(session, 1)),
    "a rewind beyond its end": ("open", lambda runtime, session: runtime.branches.rewind(session, 99)),
    "a fork beyond its end": ("open", lambda runtime, session: runtime.branches.fork(session, 99)),
    "a key for another message": ("open", keyed),
    "a checkpoint on a full disk": ("full", lambda runtime, session: runtime.branches.checkpoint(session, "x")),
    "a message on a full disk": ("full", lambda runtime, session: runtime.send_to(session, "more")),
    "a rewind on a full disk": ("full", lambda runtime, session: runtime.branches.rewind(session, 1)),
    "a close on a full disk": ("full", lambda runtime, session: runtime.close_session(session)),
}


@pytest.mark.parametrize(("state", "ask"), REFUSED.values(), ids=REFUSED)
async def test_a_session_leaves_the_memory_after_a_request_of_it_was_refused(
    state: str, ask: Callable[[Runtime, int], Awaitable[object]], runtime: Runtime, autojump_clock: trio.abc.Clock
) -> None:
    session = await runtime.create_session("walrus")
    await (await runtime.send(session, Incoming(content="hi", key="k"))).outcome()
    if state == "closed":
        await runtime.close_session(session)
    await trio.sleep(2 * INTERVAL)
    assert isinstance(runtime.log, MemoryLog)
    runtime.log.fail_with = StorageFailed("no answer") if state == "full" else None
    with pytest.raises(Problem) as refused:
        await ask(runtime, session)
    del refused
    runtime.log.fail_with = None
    assert runtime.sessions_in_memory.at_rest(session)


class Large:
    def __init__(self, number: int, size: int) -> None:
        self.id = number
        self.size = size


async def test_large_sessions_push_out_more_than_one_but_never_the_latest() -> None:
    await trio.lowlevel.checkpoint()
    kept = Kept(IDLE_S)
    for number in range(4):
        kept.touch(Large(number, MOST_BYTES // 4))
    assert len(kept) == 4
    kept.touch(Large(4, MOST_BYTES // 2))
    assert len(kept) == 3
    kept.touch(Large(5, 2 * MOST_BYTES))
    assert len(kept) == 1


async def test_a_session_that_has_grown_weighs_what_it_has_become() -> None:
    await trio.lowlevel.checkpoint()
    kept, growing = Kept(IDLE_S), Large(1, 10)
    kept.touch(Large(2, 10))
    kept.touch(growing)
    growing.size = 2 * MOST_BYTES
    kept.touch(growing)
    assert len(kept) == 1
    growing.size = 10
    kept.touch(growing)
    kept.touch(Large(3, MOST_BYTES - 20))
    assert len(kept) == 2


async def test_a_session_weighs_what_its_log_does(runtime: Runtime, autojump_clock: trio.abc.Clock) -> None:
    session = await runtime.create_session("walrus")
    await runtime.send_to(session, "hi")
    size = (await runtime.live(session)).size
    rows = await runtime.log.events(session, 0, 100)
    await trio.sleep(3 * IDLE_S)
    assert size == sum(len(row.body) for row in rows) == (await runtime.live(session)).size
