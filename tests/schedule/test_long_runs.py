"""Tests of weeks of ticks: the ledger has every slot and every cent, despite restarts and failures."""

from collections import Counter
from collections.abc import Sequence

import pytest
import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel, in_turn, replies
from tests.schedule.scheduler_harness import DAY, HOUR, MONDAY, NAME, WEEK, FakeProbe, open_scheduler
from walrus_config.schema import HeartbeatSettings
from walrus_protocol.content import Usage
from walrus_protocol.events import Tick
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply

HOURLY = HeartbeatSettings(interval=60, prompt="Look around.")


async def reply_for_a_cent(request: ModelRequest, on_chunk: OnChunk) -> Reply:
    await trio.sleep(20)
    return Reply(content="HEARTBEAT_OK", cost_usd=0.01, usage=Usage(input=10, output=2))


def check_complete(rows: Sequence[Tick], every_s: float, begin: float, end: float) -> None:
    """Checks that each slot between the two times is recorded by exactly one row, and lies on the grid."""
    recorded = [row.slot + n * every_s for row in rows if row.by == "clock" for n in range(row.count)]
    count = int((end - begin) / every_s)
    assert recorded == [begin + number * every_s for number in range(1, count + 1)]


async def test_a_week_of_ticks_has_a_row_for_every_slot_and_its_costs_add_up(autojump_clock: trio.abc.Clock) -> None:
    clock = FakeWallClock(MONDAY)
    model = FakeModel(reply_for_a_cent)
    async with open_scheduler(MemoryLog(), model, clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(WEEK + 60)
        rows = await harness.rows()
        check_complete(rows, HOUR, MONDAY, MONDAY + WEEK)
        assert Counter(row.outcome for row in rows) == {"ran": 168}
        assert len(model.requests) == 168
        assert sum(row.ran.cost_usd or 0 for row in rows if row.ran) == pytest.approx(1.68)
        sessions = [await harness.runtime.session(row.ran.session) for row in rows if row.ran]
        assert {info.state for info in sessions} == {"closed"}
        assert sum(info.cost_usd or 0 for info in sessions) == pytest.approx(1.68)
        assert [row.ended_at - row.started_at for row in rows if row.ended_at and row.started_at] == [20.0] * 168


async def test_a_week_with_quiet_nights_a_pause_and_a_probe_is_recorded_slot_by_slot(
    autojump_clock: trio.abc.Clock,
) -> None:
    clock = FakeWallClock(MONDAY)
    probe = FakeProbe("mail 1")
    slow = BlockingReply(text_after="There is mail.")
    model = FakeModel(in_turn(reply_for_a_cent, slow, reply_for_a_cent))
    settings = HeartbeatSettings(interval=60, probe="mail", quiet_hours=("22:00", "06:00"))
    async with open_scheduler(
        MemoryLog(), model, clock, probe=probe, heartbeat_settings={"clerk": settings}
    ) as harness:
        await trio.sleep(DAY + 60)  # Monday: 06:00 runs, then the probe result is unchanged for the rest of the day
        probe.output = "mail 2"
        await trio.sleep(9 * HOUR)  # Tuesday: the tick of 06:00 runs until after 09:00
        slow.released.set()
        await trio.sleep(15 * HOUR)
        await harness.scheduler.pause(NAME)
        await trio.sleep(DAY)
        await harness.scheduler.resume(NAME)
        await trio.sleep(4 * DAY)
        rows = await harness.rows()
    check_complete(rows, HOUR, MONDAY, MONDAY + WEEK)
    reasons = Counter(f"{row.outcome} {row.reason}".strip() for row in rows)
    assert reasons == {
        "ran": 2,
        "skipped quiet hours (22:00 to 06:00)": 6 * 8,
        "skipped paused": 24,
        "skipped the previous tick is still running": 3,
        "skipped the probe result is unchanged": 168 - 2 - 48 - 24 - 3,
    }
    assert [row.text for row in rows if row.news] == ["There is mail."]


async def test_a_restart_keeps_the_grid_and_records_missed_slots(autojump_clock: trio.abc.Clock) -> None:
    clock = FakeWallClock(MONDAY)
    log, model = MemoryLog(), FakeModel(reply_for_a_cent)
    async with open_scheduler(log, model, clock, heartbeat_settings={"clerk": HOURLY}):
        await trio.sleep(2.5 * DAY + 30)
    await trio.sleep(DAY)
    log = MemoryLog(log)
    async with open_scheduler(log, model, clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(3.5 * DAY)
        rows = await harness.rows()
    check_complete(rows, HOUR, MONDAY, MONDAY + WEEK)
    assert Counter(row.outcome for row in rows) == {"ran": 144 + 1, "missed": 1}
    assert [(row.slot, row.count) for row in rows if row.outcome == "missed"] == [(MONDAY + 2.5 * DAY + HOUR, 23)]
    assert len(model.requests) == 145, "the slot of half a minute ago is run, earlier ones are not"


async def test_a_clock_set_forward_by_hours_causes_one_row_and_no_burst(autojump_clock: trio.abc.Clock) -> None:
    clock = FakeWallClock(MONDAY)
    model = FakeModel(reply_for_a_cent)
    async with open_scheduler(MemoryLog(), model, clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(1.5 * HOUR)
        clock.set(clock.now() + 7 * HOUR)
        await trio.sleep(2 * HOUR)
        assert [(row.outcome, (row.slot - MONDAY) / HOUR, row.count) for row in await harness.rows()] == [
            ("ran", 1, 1),
            ("missed", 2, 7),
            ("ran", 9, 1),
            ("ran", 10, 1),
        ]


async def test_after_a_clock_was_set_back_by_hours_ticks_continue_one_interval_later(
    autojump_clock: trio.abc.Clock,
) -> None:
    clock = FakeWallClock(MONDAY)
    model = FakeModel(reply_for_a_cent)
    async with open_scheduler(MemoryLog(), model, clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(2.5 * HOUR)
        clock.set(clock.now() - 7.25 * HOUR)
        await trio.sleep(2.5 * HOUR)
        assert [(row.outcome, (row.slot - MONDAY) / HOUR) for row in await harness.rows()] == [
            ("ran", 1),
            ("ran", 2),
            ("ran", -3.75),
            ("ran", -2.75),
        ]


async def test_a_suspend_of_the_machine_causes_one_row(autojump_clock: trio.abc.Clock) -> None:
    """Only the wall clock advances in a suspend, so a suspend looks like a clock set forward."""
    clock = FakeWallClock(MONDAY)
    async with open_scheduler(
        MemoryLog(), FakeModel(reply_for_a_cent), clock, heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        await trio.sleep(0.5 * HOUR)
        clock.set(MONDAY + 3 * DAY + 10)
        await trio.sleep(1.5 * HOUR)
        outcomes = [(row.outcome, row.count) for row in await harness.rows()]
    assert outcomes == [("missed", 71), ("ran", 1), ("ran", 1)]


async def test_a_provider_failing_for_a_week_is_called_less_and_every_slot_is_recorded(
    autojump_clock: trio.abc.Clock,
) -> None:
    clock = FakeWallClock(MONDAY)

    async def fails(_: ModelRequest, __: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        raise ModelFailed("provider_network", "No route to host.")

    model = FakeModel(fails)
    async with open_scheduler(MemoryLog(), model, clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(WEEK + 60)
        rows = await harness.rows()
        check_complete(rows, HOUR, MONDAY, MONDAY + WEEK)
        failed = [round((row.slot - MONDAY) / HOUR) for row in rows if row.outcome == "failed"]
        assert failed == [1, 2, 3, 5, 9, 17, 33, 57, 81, 105, 129, 153]
        assert {row.outcome for row in rows} == {"failed", "skipped"}
        assert len(model.requests) == len(failed)
        assert rows[3].reason.startswith("the breaker is open until 2026-11-02 ")
        model.respond = replies("Back again.")
        await harness.scheduler.resume(NAME)
        await trio.sleep(HOUR)
        [state] = harness.scheduler.states()
        assert (state.row.failures, state.row.closed_until, state.last_tick and state.last_tick.text) == (
            0,
            None,
            "Back again.",
        )


async def test_the_breaker_outlives_a_restart_and_a_refused_key_opens_it_at_once(
    autojump_clock: trio.abc.Clock,
) -> None:
    clock = FakeWallClock(MONDAY)

    async def refuses(_: ModelRequest, __: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        raise ModelFailed("provider_auth", "The key is refused.")

    log, model = MemoryLog(), FakeModel(refuses)
    async with open_scheduler(log, model, clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(1.5 * HOUR)
        assert await harness.outcomes() == [("failed", "provider_auth: The key is refused.")]
    log = MemoryLog(log)
    async with open_scheduler(log, model, clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(HOUR)
        assert [outcome for outcome, _ in await harness.outcomes()] == ["failed", "skipped"]
        model.respond = replies("HEARTBEAT_OK")
        await trio.sleep(HOUR)
        assert [outcome for outcome, _ in await harness.outcomes()] == ["failed", "skipped", "ran"]


async def test_agents_tick_side_by_side_each_on_its_own_grid(autojump_clock: trio.abc.Clock) -> None:
    clock = FakeWallClock(MONDAY)
    model = FakeModel(reply_for_a_cent)
    settings = {f"agent{number}": HeartbeatSettings(interval=1 + number) for number in range(20)}
    async with open_scheduler(MemoryLog(), model, clock, heartbeat_settings=settings) as harness:
        await trio.sleep(2 * HOUR + 30)
        for name, heartbeat in settings.items():
            check_complete(await harness.rows(f"heartbeat:{name}"), heartbeat.interval * 60, MONDAY, MONDAY + 2 * HOUR)
    assert model.max_concurrent > 1
