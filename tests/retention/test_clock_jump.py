"""After a jump of the wall clock, retention deletes nothing until there was time to correct the clock."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.clock import FakeWallClock
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import FakeModel
from tests.fakes.stores import LogDisk, commit, disk, write
from walrus_config.schema import StorageSettings
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import UserMessage, encode
from walrusd.retention.clock_jump import DAY_S, ClockJumpGuard, read_last_event_time
from walrusd.retention.collector import HOUR_S, RetentionCollector
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log
from walrusd.store.tables.session import SessionFilter

__all__ = ["disk"]

NOON = 1_793_620_800.0
YEAR_S = 365 * DAY_S


async def test_elapsed_time_is_not_a_clock_jump(autojump_clock: MockClock) -> None:
    guard = ClockJumpGuard(FakeWallClock(NOON).now, NOON)
    for _ in range(100):
        await trio.sleep(30 * DAY_S)
        assert not guard.is_suspect()


@pytest.mark.parametrize(("days", "hours"), [(0.9, 0.0), (2, 2.0), (5, 5.0), (24, 24.0), (3650, 24.0)])
async def test_after_a_jump_deletion_waits_in_proportion_up_to_a_day(
    autojump_clock: MockClock, days: float, hours: float
) -> None:
    clock = FakeWallClock(NOON)
    guard = ClockJumpGuard(clock.now, NOON)
    clock.set(NOON + days * DAY_S)
    assert guard.is_suspect() == bool(hours)
    assert guard.remaining_s == pytest.approx(hours * HOUR_S, rel=0.01)
    await trio.sleep(guard.remaining_s + 1)
    assert not guard.is_suspect()


async def test_setting_the_clock_forward_is_a_jump_and_setting_it_back_is_not(autojump_clock: MockClock) -> None:
    clock = FakeWallClock(NOON)
    guard = ClockJumpGuard(clock.now, None)
    clock.set(NOON - YEAR_S)
    assert not guard.is_suspect()
    await trio.sleep(HOUR_S)
    clock.set(NOON)
    assert guard.is_suspect()


async def test_a_clock_that_was_wrong_for_one_night_deletes_no_session(autojump_clock: MockClock) -> None:
    """A session closed ten days ago is kept for ninety, while the clock is ten years ahead at night."""
    log, clock = MemoryLog(), FakeWallClock(NOON)
    await write_closed_session(log, 1, NOON - 10 * DAY_S)
    async with Runtime(FakeModel(), log=log, clock=clock.now) as runtime, trio.open_nursery() as nursery:
        collector = await open_collector(runtime, clock, days=90)
        nursery.start_soon(collector.run)
        await trio.sleep(2 * HOUR_S)
        clock.set(clock.now() + 10 * YEAR_S)
        await trio.sleep(8 * HOUR_S)
        [warning] = collector.warnings()
        assert "are kept for 1" in warning
        clock.set(clock.now() - 10 * YEAR_S)
        await trio.sleep(30 * HOUR_S)
        assert await session_ids(log) == [1]
        assert not [*collector.warnings()]
        await trio.sleep(81 * DAY_S)
        assert await session_ids(log) == []
        nursery.cancel_scope.cancel()


async def test_years_after_the_last_event_old_sessions_are_deleted_a_day_later_or_by_gc(
    autojump_clock: MockClock,
) -> None:
    for requested in (False, True):
        log, clock = MemoryLog(), FakeWallClock(NOON)
        await write_closed_session(log, 1, NOON - 10 * YEAR_S)
        async with Runtime(FakeModel(), log=log, clock=clock.now) as runtime, trio.open_nursery() as nursery:
            collector = await open_collector(runtime, clock, days=90)
            nursery.start_soon(collector.run)
            await trio.sleep(23 * HOUR_S)
            assert await session_ids(log) == [1]
            if requested:
                await collector.collect(dry_run=False)
            else:
                await trio.sleep(2 * HOUR_S)
            assert await session_ids(log) == []
            nursery.cancel_scope.cancel()


async def test_the_last_write_time_is_that_of_the_last_event(log: Log) -> None:
    assert await read_last_event_time(log) is None
    await write_closed_session(log, 1, 5.0)
    assert await read_last_event_time(log) == 5.0
    await commit(log, write(session=DAEMON_SESSION, bodies=[b'{"type":"tick","ts":7.0}'], first_seq=1))
    assert await read_last_event_time(log) == 7.0
    await commit(log, write(session=DAEMON_SESSION, bodies=[b"{}"], first_seq=2))
    assert await read_last_event_time(log) is None


@pytest.fixture
async def log(disk: LogDisk, tmp_path: Path) -> AsyncIterator[Log]:
    log = await disk.open()
    yield log
    await log.aclose()


async def open_collector(runtime: Runtime, clock: FakeWallClock, *, days: float) -> RetentionCollector:
    return RetentionCollector(
        runtime.log,
        runtime.session_cache,
        await DaemonRecorder.open(runtime.log),
        storage_settings=lambda: StorageSettings(retain_closed_days=days),
        clock=clock.now,
        on_event=lambda _: None,
        last_run_at=await read_last_event_time(runtime.log),
    )


async def write_closed_session(log: Log, session: int, at: float) -> None:
    row = SessionState(id=session, agent="walrus", state="closed", updated_at=at, last_seq=1)
    body = encode(UserMessage(content="Hello", session=session, ts=at))
    await commit(log, write(session=session, session_state=row, bodies=[body], first_seq=1))


async def session_ids(log: Log) -> list[int]:
    return [row.id for row, _ in await log.list_sessions(SessionFilter(include_closed=True))]
