"""When the time of day leaps, what is old by it is kept until somebody had the time to set it right."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import FakeModel
from tests.fakes.stores import LogDisk, commit, disk, write
from walrus_config.schema import Storage
from walrus_protocol.events import UserMessage, encode
from walrusd.leaps import DAY_S, Leaps, last_written
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.runtime import Runtime
from walrusd.session.outline import Outline
from walrusd.space import HOUR_S, Space
from walrusd.store.log import DAEMON, Filter, Log
from walrusd.store.memory import MemoryLog

__all__ = ["disk"]

NOON = 1_793_620_800.0
YEAR_S = 365 * DAY_S


async def test_time_that_passes_is_no_leap(autojump_clock: MockClock) -> None:
    leaps = Leaps(FakeWallClock(NOON).now, NOON)
    for _ in range(100):
        await trio.sleep(30 * DAY_S)
        assert not leaps.waits()


@pytest.mark.parametrize(("days", "hours"), [(0.9, 0.0), (2, 2.0), (5, 5.0), (24, 24.0), (3650, 24.0)])
async def test_after_a_leap_it_waits_and_the_longer_it_was_the_longer_up_to_a_day(
    autojump_clock: MockClock, days: float, hours: float
) -> None:
    clock = FakeWallClock(NOON)
    leaps = Leaps(clock.now, NOON)
    clock.set(NOON + days * DAY_S)
    assert leaps.waits() == bool(hours)
    assert leaps.left_s == pytest.approx(hours * HOUR_S, rel=0.01)
    await trio.sleep(leaps.left_s + 1)
    assert not leaps.waits()


async def test_a_clock_that_is_set_back_is_no_leap_and_the_way_there_again_is_one(autojump_clock: MockClock) -> None:
    clock = FakeWallClock(NOON)
    leaps = Leaps(clock.now, None)
    clock.set(NOON - YEAR_S)
    assert not leaps.waits()
    await trio.sleep(HOUR_S)
    clock.set(NOON)
    assert leaps.waits()


async def test_a_clock_that_was_wrong_for_a_night_costs_no_session(autojump_clock: MockClock) -> None:
    """Of ten days ago, kept for ninety: the clock is set forward by ten years, and right again the next morning."""
    log, clock = MemoryLog(), FakeWallClock(NOON)
    await closed(log, 1, NOON - 10 * DAY_S)
    async with Runtime(FakeModel(), log=log, clock=clock.now) as runtime, trio.open_nursery() as nursery:
        space = await space_of(runtime, clock, days=90)
        nursery.start_soon(space.keep)
        await trio.sleep(2 * HOUR_S)
        clock.set(clock.now() + 10 * YEAR_S)
        await trio.sleep(8 * HOUR_S)
        [warning] = space.warnings()
        assert "are kept for 1" in warning
        clock.set(clock.now() - 10 * YEAR_S)
        await trio.sleep(30 * HOUR_S)
        assert await listed(log) == [1]
        assert not [*space.warnings()]
        await trio.sleep(81 * DAY_S)
        assert await listed(log) == []
        nursery.cancel_scope.cancel()


async def test_at_a_start_years_after_the_last_event_old_sessions_go_a_day_later_unless_a_person_says_now(
    autojump_clock: MockClock,
) -> None:
    for asked in (False, True):
        log, clock = MemoryLog(), FakeWallClock(NOON)
        await closed(log, 1, NOON - 10 * YEAR_S)
        async with Runtime(FakeModel(), log=log, clock=clock.now) as runtime, trio.open_nursery() as nursery:
            space = await space_of(runtime, clock, days=90)
            nursery.start_soon(space.keep)
            await trio.sleep(23 * HOUR_S)
            assert await listed(log) == [1]
            if asked:
                await space.gc(dry_run=False)
            else:
                await trio.sleep(2 * HOUR_S)
            assert await listed(log) == []
            nursery.cancel_scope.cancel()


async def test_the_last_event_tells_how_late_it_was(log: Log) -> None:
    assert await last_written(log) is None
    await closed(log, 1, 5.0)
    assert await last_written(log) == 5.0
    await commit(log, write(session=DAEMON, bodies=[b'{"type":"tick","ts":7.0}'], first_seq=1))
    assert await last_written(log) == 7.0
    await commit(log, write(session=DAEMON, bodies=[b"{}"], first_seq=2))
    assert await last_written(log) is None


@pytest.fixture
async def log(disk: LogDisk, tmp_path: Path) -> AsyncIterator[Log]:
    log = await disk.open()
    yield log
    await log.aclose()


async def space_of(runtime: Runtime, clock: FakeWallClock, *, days: float) -> Space:
    return Space(
        runtime.log,
        runtime.sessions_in_memory,
        await DaemonFacts.open(runtime.log),
        storage=lambda: Storage(retain_closed_days=days),
        clock=clock.now,
        see=lambda _: None,
        last=await last_written(runtime.log),
    )


async def closed(log: Log, session: int, at: float) -> None:
    row = Outline(id=session, agent="walrus", state="closed", updated_at=at, last_seq=1)
    body = encode(UserMessage(content="Hello", session=session, ts=at))
    await commit(log, write(session=session, outline=row, bodies=[body], first_seq=1))


async def listed(log: Log) -> list[int]:
    return [row.id for row, _ in await log.outlines(Filter(include_closed=True))]
