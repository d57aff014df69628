"""What walrusctl status says of schedules that do not tick as they should, and that it is silent of the others."""

import time

import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import FakeModel, fails, in_turn, says
from tests.schedule.house import HOUR, MONDAY, NAME, open_house
from walrus_config.schema import Heartbeat
from walrusd.ports import ModelFailed
from walrusd.schedule.job import RETRY_S
from walrusd.store.log import StorageFull
from walrusd.store.memory import MemoryLog

BEATS = {"clerk": Heartbeat(interval=60, prompt="Look around."), "poet": Heartbeat(interval=61)}
Autojump = trio.abc.Clock


async def test_one_that_is_paused_is_named_until_it_is_resumed(autojump_clock: Autojump) -> None:
    async with open_house(MemoryLog(), FakeModel(), FakeWallClock(MONDAY), beats=BEATS) as house:
        assert house.schedules.warnings() == ()
        await house.schedules.pause(NAME)
        assert house.schedules.warnings() == (f"{NAME} is paused: `walrusctl schedule resume {NAME}` lets it tick.",)
        await house.schedules.resume(NAME)
        assert house.schedules.warnings() == ()


async def test_one_whose_breaker_is_open_is_named_until_it_closes(autojump_clock: Autojump) -> None:
    model = FakeModel(in_turn(fails(ModelFailed("provider_auth", "401")), says("HEARTBEAT_OK")))
    async with open_house(MemoryLog(), model, FakeWallClock(MONDAY), beats={"clerk": BEATS["clerk"]}) as house:
        await trio.sleep(HOUR + 1)
        until = time.strftime("%a %H:%M", time.localtime(MONDAY + 3 * HOUR))
        assert house.schedules.warnings() == (
            f"{NAME} has failed, and is skipped until {until}: `walrusctl schedule resume {NAME}` tries it sooner.",
        )
        await trio.sleep(2 * HOUR)
        assert house.schedules.warnings() == ()


async def test_a_ledger_that_cannot_be_written_is_told_until_it_can(autojump_clock: Autojump) -> None:
    log = MemoryLog()
    model = FakeModel(says("HEARTBEAT_OK"))
    async with open_house(log, model, FakeWallClock(MONDAY), beats={"clerk": BEATS["clerk"]}) as house:
        log.fail_with = StorageFull("no space left")
        await trio.sleep(HOUR + 1)
        assert house.schedules.warnings() == (
            "The ledger cannot be written, so no heartbeat ticks: no space left. Is the disk full?",
        )
        log.fail_with = None
        await trio.sleep(RETRY_S)
        assert house.schedules.warnings() == ()
