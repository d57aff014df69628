"""Heartbeats that change while a tick is begun, runs, or waits for the disk: each still has one tick at a time."""

import errno

import pytest
import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import BlockingReply, FakeModel
from tests.schedule.scheduler_harness import DAY, HOUR, MONDAY, FakeProbe, open_scheduler
from walrus_config.schema import HeartbeatSettings
from walrusd.store.contract import StorageFull, Write
from walrusd.store.memory import MemoryLog

HOURLY = HeartbeatSettings(interval=60, prompt="Look around.")

Autojump = trio.abc.Clock


class StallingLog(MemoryLog):
    """A disk that takes its time: while it is held, writes wait."""

    def __init__(self) -> None:
        super().__init__()
        self._stalled_writes: list[Write] | None = None

    def hold(self) -> None:
        self._stalled_writes = []

    def release(self) -> None:
        held, self._stalled_writes = self._stalled_writes or [], None
        for write in held:
            super().submit(write)

    def submit(self, write: Write) -> None:
        if self._stalled_writes is None:
            super().submit(write)
        else:
            self._stalled_writes.append(write)


class ClockOutOfDescriptors(FakeWallClock):
    """A clock that cannot wait for a time of day while `left` is False: no descriptor is free for that."""

    has_descriptors = True

    async def wait_until(self, when: float) -> None:
        await trio.lowlevel.checkpoint()
        if not self.has_descriptors:
            raise OSError(errno.EMFILE, "timerfd_create")
        await super().wait_until(when)


async def test_a_heartbeat_removed_and_added_again_keeps_its_running_tick(
    autojump_clock: Autojump,
) -> None:
    gate, probe = BlockingReply(), FakeProbe("one")
    model = FakeModel(gate)
    beats = {"clerk": HeartbeatSettings(interval=60, prompt="Look around.", probe="ls")}
    log = MemoryLog()
    async with open_scheduler(log, model, FakeWallClock(MONDAY), probe=probe, heartbeat_settings=beats) as house:
        await trio.sleep(1.25 * HOUR)
        await house.reload_heartbeats({})
        await house.reload_heartbeats({})
        await trio.sleep(0.25 * HOUR)
        await house.reload_heartbeats(beats)
        await trio.sleep(1.25 * HOUR)
        assert await house.outcomes() == [("running", ""), ("skipped", "the tick before it still runs")]
        gate.released.set()
        await trio.sleep(HOUR)
        assert [outcome for outcome, _ in await house.outcomes()] == ["ran", "skipped", "skipped"]
        assert [(row.slot - MONDAY) / HOUR for row in await house.rows()] == [1, 2.5, 3.5]
        [standing] = house.scheduler.states()
        assert standing.row.seen == "ls one", "what its tick has found is not forgotten"
        assert await log.schedules() == [standing.row]
    assert model.max_concurrent == 1


async def test_a_heartbeat_added_again_after_its_tick_reuses_its_session(autojump_clock: Autojump) -> None:
    gate = BlockingReply()
    beats = {"clerk": HeartbeatSettings(interval=60, prompt="Look around.", session="same")}
    async with open_scheduler(MemoryLog(), FakeModel(gate), FakeWallClock(MONDAY), heartbeat_settings=beats) as house:
        await trio.sleep(1.25 * HOUR)
        await house.reload_heartbeats({})
        gate.released.set()
        await trio.sleep(60)
        await house.reload_heartbeats(beats)
        await trio.sleep(HOUR + 1)
        assert [row.ran and row.ran.session for row in await house.rows()] == [1, 1]


@pytest.mark.parametrize(("before", "after"), [(60, 90), (10, 1440)])
async def test_an_interval_that_changes_while_a_slot_is_written_down_counts_from_that_slot(
    autojump_clock: Autojump, before: float, after: float
) -> None:
    log = StallingLog()
    async with open_scheduler(
        log, FakeModel(), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HeartbeatSettings(interval=before)}
    ) as house:
        log.hold()
        async with trio.open_nursery() as nursery:
            await trio.sleep(before * 60 + 1)
            nursery.start_soon(house.reload_heartbeats, {"clerk": HeartbeatSettings(interval=after)})
            await trio.sleep(1)
            log.release()
        await trio.sleep(1)
        assert [standing.row.next_slot for standing in house.scheduler.states()] == [MONDAY + (before + after) * 60]
        assert [row.slot for row in await house.rows()] == [MONDAY + before * 60]


async def test_a_slot_due_while_a_new_interval_is_being_written_is_dropped(
    autojump_clock: Autojump,
) -> None:
    log = StallingLog()
    async with open_scheduler(
        log, FakeModel(), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HeartbeatSettings(interval=10)}
    ) as house:
        await trio.sleep(599)
        log.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.reload_heartbeats, {"clerk": HeartbeatSettings(interval=1440)})
            await trio.sleep(2)
            log.release()
        await trio.sleep(HOUR)
        assert await house.rows() == []
        assert [standing.row.next_slot for standing in house.scheduler.states()] == [MONDAY + DAY]


@pytest.mark.parametrize(
    "change", [{}, {"clerk": HeartbeatSettings(interval=90)}], ids=["taken out", "another interval"]
)
async def test_a_reload_on_a_full_disk_is_active_and_is_written_once_there_is_space(
    autojump_clock: Autojump, change: dict[str, HeartbeatSettings]
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    async with open_scheduler(log, FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR / 2)
        log.fail_with = StorageFull("no space left")
        await house.reload_heartbeats(change)
        assert house.scheduler.names == tuple(f"heartbeat:{name}" for name in change)
        await trio.sleep(HOUR / 2 + 1)
        assert await house.rows() == []
        log.fail_with = None
        await house.reload_heartbeats(change)
        await trio.sleep(HOUR)
        assert [(row.slot - MONDAY) / HOUR for row in await house.rows()] == [1.5] * len(change)


async def test_where_no_descriptor_is_free_for_a_wait_the_daemon_goes_on_and_ticks_in_time(
    autojump_clock: Autojump,
) -> None:
    clock = ClockOutOfDescriptors(MONDAY)
    async with open_scheduler(MemoryLog(), FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR / 2)
        clock.has_descriptors = False
        clock.set(clock.now())
        await trio.sleep(2 * HOUR)
        clock.has_descriptors = True
        await trio.sleep(HOUR)
        assert [(row.outcome, row.slot) for row in await house.rows()] == [
            ("ran", MONDAY + n * HOUR) for n in (1, 2, 3)
        ]
