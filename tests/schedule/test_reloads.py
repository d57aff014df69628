"""Tests of reloads while a tick begins, runs or waits for the disk."""

import errno
from collections.abc import Callable

import pytest
import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel
from tests.schedule.scheduler_harness import DAY, HOUR, MONDAY, NAME, FakeProbe, open_scheduler
from walrus_config.schema import HeartbeatSettings
from walrusd.store.contract import Write
from walrusd.store.errors import StorageFailed, StorageFull
from walrusd.store.tables.schedule import read_schedules
from walrusd.store.tables.tick import read_ticks

HOURLY = HeartbeatSettings(interval=60, prompt="Look around.")

Autojump = trio.abc.Clock


class StallingLog(MemoryLog):
    """A log on a slow disk: after `hold`, writes wait until `release`."""

    def __init__(self) -> None:
        super().__init__()
        self._stalled_writes: list[Write] | None = None

    def hold(self) -> None:
        self._stalled_writes = []

    def release(self) -> None:
        stalled, self._stalled_writes = self._stalled_writes or [], None
        for write in stalled:
            super().submit(write)

    def submit(self, write: Write) -> None:
        if self._stalled_writes is None:
            super().submit(write)
        else:
            self._stalled_writes.append(write)


class ClockOutOfDescriptors(FakeWallClock):
    """A clock that cannot wait while `has_descriptors` is False, for lack of a descriptor."""

    has_descriptors = True

    async def wait_until(self, when: float) -> None:
        await trio.lowlevel.checkpoint()
        if not self.has_descriptors:
            raise OSError(errno.EMFILE, "timerfd_create")
        await super().wait_until(when)


async def test_a_heartbeat_removed_and_added_again_keeps_its_running_tick(
    autojump_clock: Autojump,
) -> None:
    reply, probe = BlockingReply(), FakeProbe("one")
    model = FakeModel(reply)
    settings = {"clerk": HeartbeatSettings(interval=60, prompt="Look around.", probe="ls")}
    log = MemoryLog()
    async with open_scheduler(log, model, FakeWallClock(MONDAY), probe=probe, heartbeat_settings=settings) as harness:
        await trio.sleep(1.25 * HOUR)
        await harness.reload_heartbeats({})
        await harness.reload_heartbeats({})
        await trio.sleep(0.25 * HOUR)
        await harness.reload_heartbeats(settings)
        await trio.sleep(1.25 * HOUR)
        assert await harness.outcomes() == [("running", ""), ("skipped", "the previous tick is still running")]
        reply.released.set()
        await trio.sleep(HOUR)
        assert [outcome for outcome, _ in await harness.outcomes()] == ["ran", "skipped", "skipped"]
        assert [(row.slot - MONDAY) / HOUR for row in await harness.rows()] == [1, 2.5, 3.5]
        [state] = harness.scheduler.states()
        assert state.row.seen == "ls one", "the digest that its tick has found is kept"
        assert await log.read(read_schedules) == [state.row]
    assert model.max_concurrent == 1


async def test_a_heartbeat_added_again_after_its_tick_reuses_its_session(autojump_clock: Autojump) -> None:
    reply = BlockingReply()
    settings = {"clerk": HeartbeatSettings(interval=60, prompt="Look around.", session="same")}
    async with open_scheduler(
        MemoryLog(), FakeModel(reply), FakeWallClock(MONDAY), heartbeat_settings=settings
    ) as harness:
        await trio.sleep(1.25 * HOUR)
        await harness.reload_heartbeats({})
        reply.released.set()
        await trio.sleep(60)
        await harness.reload_heartbeats(settings)
        await trio.sleep(HOUR + 1)
        assert [row.ran and row.ran.session for row in await harness.rows()] == [1, 1]


@pytest.mark.parametrize(("before", "after"), [(60, 90), (10, 1440)])
async def test_an_interval_that_changes_while_a_slot_is_written_counts_from_that_slot(
    autojump_clock: Autojump, before: float, after: float
) -> None:
    log = StallingLog()
    async with open_scheduler(
        log, FakeModel(), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HeartbeatSettings(interval=before)}
    ) as harness:
        log.hold()
        async with trio.open_nursery() as nursery:
            await trio.sleep(before * 60 + 1)
            nursery.start_soon(harness.reload_heartbeats, {"clerk": HeartbeatSettings(interval=after)})
            await trio.sleep(1)
            log.release()
        await trio.sleep(1)
        assert [state.row.next_slot for state in harness.scheduler.states()] == [MONDAY + (before + after) * 60]
        assert [row.slot for row in await harness.rows()] == [MONDAY + before * 60]


async def test_a_slot_due_while_a_new_interval_is_being_written_is_dropped(
    autojump_clock: Autojump,
) -> None:
    log = StallingLog()
    async with open_scheduler(
        log, FakeModel(), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HeartbeatSettings(interval=10)}
    ) as harness:
        await trio.sleep(599)
        log.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.reload_heartbeats, {"clerk": HeartbeatSettings(interval=1440)})
            await trio.sleep(2)
            log.release()
        await trio.sleep(HOUR)
        assert await harness.rows() == []
        assert [state.row.next_slot for state in harness.scheduler.states()] == [MONDAY + DAY]


@pytest.mark.parametrize("change", [{}, {"clerk": HeartbeatSettings(interval=90)}], ids=["removed", "another interval"])
async def test_a_reload_on_a_full_disk_is_active_and_is_written_once_there_is_space(
    autojump_clock: Autojump, change: dict[str, HeartbeatSettings]
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    async with open_scheduler(log, FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(HOUR / 2)
        log.fail_with = StorageFull("no space left")
        await harness.reload_heartbeats(change)
        assert harness.scheduler.names == tuple(f"heartbeat:{name}" for name in change)
        await trio.sleep(HOUR / 2 + 1)
        assert await harness.rows() == []
        log.fail_with = None
        await harness.reload_heartbeats(change)
        await trio.sleep(HOUR)
        assert [(row.slot - MONDAY) / HOUR for row in await harness.rows()] == [1.5] * len(change)


async def test_a_reload_that_cannot_read_the_store_changes_no_heartbeat(
    autojump_clock: Autojump, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)

    async def fail_at_ticks(query: Callable[..., object], *args: object, **named: object) -> object:
        if query is read_ticks:
            raise StorageFailed("no answer")
        return await MemoryLog.read(log, query, *args, **named)

    async with open_scheduler(log, FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        monkeypatch.setattr(log, "read", fail_at_ticks)
        with pytest.raises(StorageFailed):
            await harness.reload_heartbeats({"clerk": HeartbeatSettings(interval=90), "scout": HOURLY})
        assert [(state.job.name, state.job.every_s) for state in harness.scheduler.states()] == [(NAME, HOUR)]
        monkeypatch.undo()
        await trio.sleep(HOUR + 1)
        assert [(row.slot - MONDAY) / HOUR for row in await harness.rows()] == [1]


async def test_without_a_free_descriptor_for_a_wait_heartbeats_still_run_in_time(
    autojump_clock: Autojump,
) -> None:
    clock = ClockOutOfDescriptors(MONDAY)
    async with open_scheduler(MemoryLog(), FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(HOUR / 2)
        clock.has_descriptors = False
        clock.set(clock.now())
        await trio.sleep(2 * HOUR)
        clock.has_descriptors = True
        await trio.sleep(HOUR)
        assert [(row.outcome, row.slot) for row in await harness.rows()] == [
            ("ran", MONDAY + n * HOUR) for n in (1, 2, 3)
        ]
