"""What is kept and what goes first: through a runtime, on both stores."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import FakeModel
from tests.fakes.stores import LogDisk, commit, disk, write
from walrus_config.schema import Storage
from walrus_protocol.content import ToolOutput
from walrus_protocol.events import SessionsExpired, decode
from walrus_protocol.housekeeping import Collected
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.leaps import DAY_S
from walrusd.ports import ModelRequest, Reply, Say
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.space import AT_ONCE, HOUR_S, Space
from walrusd.store.keeping import Swept
from walrusd.store.log import DAEMON, Filter, Log, Output, StorageFailed
from walrusd.store.memory import MemoryLog

__all__ = ["disk"]

NOON = 1_793_620_800.0
MB = 1_000_000


@dataclass
class House:
    runtime: Runtime
    clock: FakeWallClock
    space: Space
    log: Log
    storage: Storage = field(default_factory=Storage)
    seen: list[SessionsExpired] = field(default_factory=list)

    async def closed(self, text: str = "Hello", of: int | None = None) -> int:
        """A session that was talked to, or a fork of one, and closed."""
        session = await self.opened(text, of)
        await self.runtime.close_session(session)
        return session

    async def opened(self, text: str = "Hello", of: int | None = None) -> int:
        session = (await self.runtime.branches.fork(of)).session if of else await self.runtime.create_session("walrus")
        await self.runtime.send_to(session, text)
        return session

    async def keep(self, session: int, ref: str, megabytes: int) -> None:
        await commit(self.log, write(session=session, output=Output(ref=ref, body=ref.encode() * MB * megabytes)))

    async def kept(self, *sessions: int) -> list[str]:
        """The refs, of one letter, of what these have."""
        found = [(ref, await self.log.output(session, ref, 0, 1)) for session in sessions for ref in "abcdef"]
        return [ref for ref, begins in found if begins is not None]

    async def gc(self) -> Collected:
        return await self.space.gc(dry_run=False)

    async def texts(self, session: int) -> list[str]:
        messages = await self.runtime.branches.history(session)
        return [str(message.content) for message in messages if not isinstance(message, ToolOutput)]

    async def listed(self) -> list[int]:
        return [row.id for row, _ in reversed(await self.log.outlines(Filter(include_closed=True, limit=100)))]


async def answer(_: ModelRequest, __: Say) -> Reply:
    """At once: what is said piece by piece is held for the quarter of a second until it is saved."""
    await trio.lowlevel.checkpoint()
    return Reply(content="Hi!", cost_usd=0.0)


@pytest.fixture
async def log(disk: LogDisk) -> AsyncIterator[Log]:
    log = await disk.open()
    yield log
    await log.aclose()


@pytest.fixture
async def house(log: Log) -> AsyncIterator[House]:
    clock = FakeWallClock(NOON)
    async with Runtime(FakeModel(answer), log=log, clock=clock.now) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        facts = await DaemonFacts.open(log)
        seen: list[SessionsExpired] = []
        # Its storage is read when it looks, by when there is a house.
        space = Space(
            log,
            runtime.sessions_in_memory,
            facts,
            storage=lambda: made.storage,
            clock=clock.now,
            see=seen.append,
        )
        made = House(runtime, clock, space, log, seen=seen)
        yield made


async def refused(asked: Awaitable[object]) -> str:
    with pytest.raises(Problem) as problem:
        await asked
    return problem.value.kind


async def test_without_a_word_about_it_nothing_is_thrown_away(house: House) -> None:
    sessions = [await house.closed(), await house.opened()]
    house.clock.set(NOON + 10_000 * DAY_S)
    told = await house.gc()
    assert (told.sessions, told.outputs, told.events) == (0, 0, 0)
    assert await house.listed() == sessions


async def test_a_session_goes_when_it_was_closed_for_so_many_days(house: House) -> None:
    old, open_ = await house.closed(), await house.opened()
    house.clock.set(NOON + DAY_S)
    young = await house.closed()
    house.storage = Storage(retain_closed_days=1.5)
    house.clock.set(NOON + 2 * DAY_S)
    told = await house.gc()
    assert (told.sessions, told.events) == (1, 5)
    assert await house.listed() == [open_, young]
    fact = SessionsExpired(ts=NOON + 2 * DAY_S, sessions=(old,), reason="gc")
    assert [(seen.sessions, seen.reason) for seen in house.seen] == [(fact.sessions, fact.reason)]
    assert [decode(row.body) for row in await house.log.events(DAEMON, 0, 9)] == house.seen


async def test_of_a_session_that_is_gone_nothing_can_be_asked(house: House) -> None:
    session = await house.closed("Where is the fish?")
    await house.runtime.branches.history(session)
    house.storage = Storage(retain_closed_days=1)
    house.clock.set(NOON + 2 * DAY_S)
    await house.gc()
    runtime = house.runtime
    asked = [
        runtime.session(session),
        runtime.branches.history(session),
        runtime.branches.fork(session),
        runtime.send(session, Incoming(content="Hello?")),
        runtime.close_session(session),
    ]
    assert {await refused(one) for one in asked} == {"session_not_found"}
    assert await house.log.search("fish") == []
    assert runtime.sessions_in_memory.in_memory(session) is None


async def test_forks_of_a_session_that_is_gone_live_on_whole(house: House) -> None:
    first = await house.closed("one")
    second = await house.closed("two", of=first)
    third = await house.opened("three", of=second)
    house.storage = Storage(retain_closed_days=1)
    house.clock.set(NOON + 2 * DAY_S)
    await house.gc()
    assert await house.listed() == [third]
    assert await house.texts(third) == ["one", "Hi!", "two", "Hi!", "three", "Hi!"]
    await house.runtime.send_to(third, "four")
    assert (await house.texts(third))[-2:] == ["four", "Hi!"]
    await house.runtime.close_session(third)
    house.clock.set(NOON + 4 * DAY_S)
    await house.gc()
    assert [await house.log.events(session, 0, 9) for session in (first, second, third)] == [[], [], []]


async def test_a_session_that_somebody_reads_stays_until_he_is_done(house: House) -> None:
    session = await house.closed()
    house.storage = Storage(retain_closed_days=1)
    house.clock.set(NOON + 2 * DAY_S)
    reader = await house.runtime.live(session)
    assert (await house.gc()).sessions == 0
    assert await house.listed() == [session]
    del reader
    assert (await house.gc()).sessions == 1


async def test_who_asks_for_a_session_while_it_goes_is_told_that_there_is_none(house: House) -> None:
    session = await house.closed("one")
    kinds: list[str] = []

    async def ask(asked: Awaitable[object]) -> None:
        kinds.append(await refused(asked))

    departures = house.runtime.sessions_in_memory.departures
    async with trio.open_nursery() as nursery:
        with departures.leaving([session], house.runtime.sessions_in_memory.at_rest) as going:
            nursery.start_soon(ask, house.runtime.branches.fork(session))
            nursery.start_soon(ask, house.runtime.live(session))
            await commit(house.log, write(session=DAEMON, expired=going))
            assert (going, kinds) == ([session], [])
    assert kinds == ["session_not_found", "session_not_found"]


async def test_those_that_somebody_uses_keep_no_other_from_going(house: House) -> None:
    read = [await house.closed() for _ in range(AT_ONCE + 1)]
    readers = [await house.runtime.live(session) for session in read]
    others = [await house.closed(), await house.closed()]
    house.storage = Storage(retain_closed_days=1)
    house.clock.set(NOON + 2 * DAY_S)
    assert (await house.gc()).sessions == 2
    assert await house.listed() == read
    assert [fact.sessions for fact in house.seen] == [(*others,)]
    readers.clear()


async def test_a_session_goes_though_it_spoke_a_moment_ago(log: Log) -> None:
    async with Runtime(FakeModel(), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.send_to(session, "Hello")
        await runtime.close_session(session)
        await wait_all_tasks_blocked()
        assert runtime.sessions_in_memory.at_rest(session)


async def test_a_session_that_is_being_forked_stays(house: House) -> None:
    session = await house.closed("one")
    house.storage = Storage(retain_closed_days=1)
    house.clock.set(NOON + 2 * DAY_S)
    async with house.runtime.sessions_in_memory.departures.needed(session):
        assert (await house.gc()).sessions == 0
    assert (await house.gc()).sessions == 1


async def test_what_goes_first_where_there_is_not_room_for_all(house: House) -> None:
    """Outputs of closed sessions, closed sessions, outputs of open ones; the oldest first, and no more than needed."""
    first, second, open_ = await house.closed("x" * 2 * MB), await house.closed("y" * 2 * MB), await house.opened()
    for session, ref in ((first, "a"), (open_, "c"), (second, "b"), (open_, "d")):
        await house.keep(session, ref, 2)
    full = (await house.log.room()).used_bytes
    left = []
    for megabytes in (1, 3, 5, 7, 9, 11):
        house.storage = Storage(max_db_bytes=full - megabytes * MB)
        await house.gc()
        left.append((await house.listed(), await house.kept(first, second, open_)))
    assert left == [
        ([first, second, open_], ["b", "c", "d"]),
        ([first, second, open_], ["c", "d"]),
        ([second, open_], ["c", "d"]),
        ([open_], ["c", "d"]),
        ([open_], ["d"]),
        ([open_], []),
    ]
    assert [fact.sessions for fact in house.seen] == [(first,), (second,)]
    assert not [*house.space.warnings()]


async def test_nothing_goes_by_which_no_room_is_made(house: House) -> None:
    """What a fork reads stays in any case, and so does an output that an open session has, too."""
    read, own = await house.closed("x" * 3 * MB), await house.closed("y" * MB)
    fork = await house.opened(of=read)
    for session, ref, megabytes in ((read, "a", 1), (fork, "a", 1), (own, "b", 1)):
        await house.keep(session, ref, megabytes)
    full = (await house.log.room()).used_bytes
    for megabytes, left in ((1, [read, own, fork]), (2, [read, fork])):
        house.storage = Storage(max_db_bytes=full - megabytes * MB + MB // 4)
        told = await house.space.gc(dry_run=True)
        assert (told.outputs, told.sessions) == (2 - megabytes, megabytes - 1)
        await house.gc()
        assert (await house.listed(), await house.kept(read)) == (left, ["a"])
    house.storage = Storage(max_db_bytes=2 * MB)
    await house.gc()
    assert (await house.listed(), await house.kept(read, fork)) == ([read, fork], []), "what an open one has goes last"


async def test_while_a_closed_session_is_read_no_open_one_loses_anything_in_its_place(house: House) -> None:
    session, open_ = await house.closed("x" * 2 * MB), await house.opened()
    await house.keep(open_, "a", 2)
    house.storage = Storage(max_db_bytes=3 * MB)
    reader = await house.runtime.live(session)
    assert (await house.gc()).outputs == 0
    assert len([*house.space.warnings()]) == 1
    del reader
    assert (await house.gc()).sessions == 1
    assert await house.kept(open_) == ["a"]


async def test_events_of_open_sessions_stay_whatever_room_they_take_and_a_person_is_told(house: House) -> None:
    session = await house.opened("x" * 3 * MB)
    house.storage = Storage(max_db_bytes=2 * MB)
    assert (await house.gc()).sessions == 0
    [warning] = house.space.warnings()
    assert "storage.max_db_bytes allows (2.0 MB)" in warning
    assert len(await house.texts(session)) == 2
    house.storage = Storage()
    await house.gc()
    assert not [*house.space.warnings()]


async def test_a_dry_run_says_what_would_go_and_throws_nothing_away(house: House) -> None:
    first, open_ = await house.closed("x" * MB), await house.opened()
    await house.keep(first, "a", 1)
    await house.keep(open_, "b", 2)
    house.clock.set(NOON + DAY_S)
    second = await house.closed("y" * MB)
    await house.keep(second, "c", 1)
    used = (await house.log.room()).used_bytes
    plans = []
    for storage in (
        Storage(),
        Storage(retain_closed_days=0.5),
        Storage(max_db_bytes=used - 1),
        Storage(max_db_bytes=used - 3 * MB),
        Storage(retain_closed_days=0.5, max_db_bytes=1024 * 1024),
    ):
        house.storage = storage
        house.clock.set(NOON + DAY_S)
        told = await house.space.gc(dry_run=True)
        plans.append((told.sessions, told.outputs, told.events, round(told.bytes / MB)))
    assert plans == [(0, 0, 0, 0), (1, 1, 5, 2), (0, 1, 0, 1), (1, 2, 5, 3), (2, 3, 10, 6)]
    assert await house.listed() == [first, open_, second]
    assert await house.kept(first, open_, second) == ["a", "b", "c"]


async def test_it_looks_by_itself_at_the_start_and_when_it_is_told_to(house: House) -> None:
    first = await house.closed()
    house.storage = Storage(retain_closed_days=0.25)
    house.clock.set(NOON + 0.5 * DAY_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.space.keep)
        await gone(house, first)
        second = await house.closed()
        house.clock.set(NOON + DAY_S)
        house.space.look()
        await gone(house, second)
        nursery.cancel_scope.cancel()
    assert [(fact.sessions, fact.reason) for fact in house.seen] == [((first,), "retention"), ((second,), "retention")]


async def test_it_looks_when_much_was_written(house: House) -> None:
    session = await house.closed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.space.keep)
        await wait_all_tasks_blocked()
        house.storage = Storage(max_db_bytes=3 * MB)
        for ref in "abc":
            await house.keep(session, ref, 2)
        await until(house, lambda used, _: used <= 3 * MB)
        nursery.cancel_scope.cancel()
    assert await house.listed() == [session]
    assert await house.kept(session) == ["c"]


async def gone(house: House, session: int) -> None:
    await until(house, lambda _, listed: session not in listed)


async def until(house: House, holds: Callable[[int, list[int]], bool]) -> None:
    """Wait until it holds of the bytes that are used and the sessions that are listed."""
    with trio.fail_after(20):
        while True:
            if holds((await house.log.room()).used_bytes, await house.listed()):
                return
            await trio.lowlevel.checkpoint()


class Watched(MemoryLog):
    """Knows when it was swept."""

    swept: ClassVar[list[float]] = []

    async def sweep(self) -> Swept:
        self.swept.append(trio.current_time())
        return await super().sweep()


async def test_while_nothing_happens_it_looks_once_an_hour(autojump_clock: MockClock) -> None:
    log = Watched()
    log.swept.clear()
    began = trio.current_time()
    async with Runtime(FakeModel(answer), log=log) as runtime:
        facts = await DaemonFacts.open(log)
        space = Space(log, runtime.sessions_in_memory, facts, storage=Storage, clock=time.time, see=lambda _: None)
        with trio.move_on_after(3.5 * HOUR_S):
            await space.keep()
    assert [round(when - began) for when in log.swept] == [0, 3600, 7200, 10800]


async def test_it_sweeps_once_an_hour_however_much_is_written(autojump_clock: MockClock) -> None:
    log = Watched()
    log.swept.clear()
    began = trio.current_time()
    async with Runtime(FakeModel(answer), log=log) as runtime:
        facts = await DaemonFacts.open(log)
        space = Space(log, runtime.sessions_in_memory, facts, storage=Storage, clock=time.time, see=lambda _: None)
        with trio.move_on_after(2.2 * HOUR_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(space.keep)
                for number in range(20):
                    await trio.sleep(HOUR_S / 8)
                    await commit(log, write(session=9, output=Output(ref=str(number), body=b"x" * 5 * MB)))
    hours = [round((when - began) / HOUR_S, 1) for when in log.swept]
    assert [hours[0], len(hours)] == [0, 3]


async def test_after_a_store_that_failed_the_next_look_goes_on(autojump_clock: MockClock) -> None:
    class Failing(MemoryLog):
        failures = 0

        async def sweep(self) -> Swept:
            if not self.failures:
                self.failures += 1
                raise StorageFailed("the disk is gone")
            return await super().sweep()

    log = Failing()
    clock = FakeWallClock(NOON)
    async with Runtime(FakeModel(answer), log=log, clock=clock.now) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.close_session(session)
        storage = Storage(retain_closed_days=0.01)
        facts = await DaemonFacts.open(log)
        seen: list[SessionsExpired] = []
        space = Space(log, runtime.sessions_in_memory, facts, storage=lambda: storage, clock=clock.now, see=seen.append)
        with trio.move_on_after(1.5 * HOUR_S):
            await space.keep()
    assert log.failures == 1
    assert [fact.sessions for fact in seen] == [(session,)]
