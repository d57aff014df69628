"""Tests of the warnings about schedules that do not run as they should; the others cause no warning."""

import time

import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import FakeModel, fails, in_turn, replies
from tests.schedule.scheduler_harness import HOUR, MONDAY, NAME, open_scheduler
from walrus_config.schema import HeartbeatSettings
from walrusd.ports import ModelFailed
from walrusd.schedule.job import STORE_RETRY_S
from walrusd.store.errors import StorageFull

HEARTBEATS = {"clerk": HeartbeatSettings(interval=60, prompt="Look around."), "poet": HeartbeatSettings(interval=61)}
Autojump = trio.abc.Clock


async def test_a_paused_schedule_is_named_until_it_is_resumed(autojump_clock: Autojump) -> None:
    async with open_scheduler(
        MemoryLog(), FakeModel(), FakeWallClock(MONDAY), heartbeat_settings=HEARTBEATS
    ) as harness:
        assert harness.scheduler.warnings() == ()
        await harness.scheduler.pause(NAME)
        assert harness.scheduler.warnings() == (f"{NAME} is paused. `walrusctl schedule resume {NAME}` resumes it.",)
        await harness.scheduler.resume(NAME)
        assert harness.scheduler.warnings() == ()


async def test_a_schedule_with_an_open_breaker_is_named_until_it_closes(autojump_clock: Autojump) -> None:
    model = FakeModel(in_turn(fails(ModelFailed("provider_auth", "401")), replies("HEARTBEAT_OK")))
    async with open_scheduler(
        MemoryLog(), model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": HEARTBEATS["clerk"]}
    ) as harness:
        await trio.sleep(HOUR + 1)
        until = time.strftime("%a %H:%M", time.localtime(MONDAY + 3 * HOUR))
        assert harness.scheduler.warnings() == (
            f"{NAME} has failed and is skipped until {until}. `walrusctl schedule resume {NAME}` ends that sooner.",
        )
        await trio.sleep(2 * HOUR)
        assert harness.scheduler.warnings() == ()


async def test_a_ledger_that_cannot_be_written_is_reported_until_it_can(autojump_clock: Autojump) -> None:
    log = MemoryLog()
    model = FakeModel(replies("HEARTBEAT_OK"))
    async with open_scheduler(
        log, model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": HEARTBEATS["clerk"]}
    ) as harness:
        log.fail_with = StorageFull("no space left")
        await trio.sleep(HOUR + 1)
        [warning] = harness.scheduler.warnings()
        reason = "cannot write to :memory:: no space left"
        assert warning == f"The ledger cannot be written, so no heartbeat runs: {reason}. Is the disk full?"
        log.fail_with = None
        await trio.sleep(STORE_RETRY_S)
        assert harness.scheduler.warnings() == ()
