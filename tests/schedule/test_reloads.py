"""Heartbeats that change while a tick is begun, runs, or waits for the disk: each still has one tick at a time."""

import errno

import pytest
import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import FakeModel, Gate
from tests.schedule.house import DAY, HOUR, MONDAY, Probe, open_house
from walrus_config.schema import Heartbeat
from walrusd.store.log import StorageFull, Write
from walrusd.store.memory import MemoryLog

HOURLY = Heartbeat(interval=60, prompt="Look around.")

Autojump = trio.abc.Clock


class Held(MemoryLog):
    """A disk that takes its time: while it is held, writes wait."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Write] | None = None

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        held, self._held = self._held or [], None
        for write in held:
            super().submit(write)

    def submit(self, write: Write) -> None:
        if self._held is None:
            super().submit(write)
        else:
            self._held.append(write)


class OutOfFiles(FakeWallClock):
    """A clock that cannot wait for a time of day while `left` is False: no descriptor is free for that."""

    left = True

    async def until(self, when: float) -> None:
        await trio.lowlevel.checkpoint()
        if not self.left:
            raise OSError(errno.EMFILE, "timerfd_create")
        await super().until(when)


async def test_one_that_is_taken_out_and_put_back_while_its_tick_runs_has_that_tick_still(
    autojump_clock: Autojump,
) -> None:
    gate, probe = Gate(), Probe("one")
    model = FakeModel(gate)
    beats = {"clerk": Heartbeat(interval=60, prompt="Look around.", probe="ls")}
    log = MemoryLog()
    async with open_house(log, model, FakeWallClock(MONDAY), probe=probe, beats=beats) as house:
        await trio.sleep(1.25 * HOUR)
        await house.set({})
        await house.set({})
        await trio.sleep(0.25 * HOUR)
        await house.set(beats)
        await trio.sleep(1.25 * HOUR)
        assert await house.told() == [("running", ""), ("skipped", "the tick before it still runs")]
        gate.opened.set()
        await trio.sleep(HOUR)
        assert [outcome for outcome, _ in await house.told()] == ["ran", "skipped", "skipped"]
        assert [(row.slot - MONDAY) / HOUR for row in await house.rows()] == [1, 2.5, 3.5]
        [standing] = house.schedules.standing()
        assert standing.row.seen == "ls one", "what its tick has found is not forgotten"
        assert await log.schedules() == [standing.row]
    assert model.most_at_once == 1


async def test_one_that_is_put_back_after_its_tick_has_ended_knows_what_that_found(autojump_clock: Autojump) -> None:
    gate = Gate()
    beats = {"clerk": Heartbeat(interval=60, prompt="Look around.", session="same")}
    async with open_house(MemoryLog(), FakeModel(gate), FakeWallClock(MONDAY), beats=beats) as house:
        await trio.sleep(1.25 * HOUR)
        await house.set({})
        gate.opened.set()
        await trio.sleep(60)
        await house.set(beats)
        await trio.sleep(HOUR + 1)
        assert [row.ran and row.ran.session for row in await house.rows()] == [1, 1]


@pytest.mark.parametrize(("before", "after"), [(60, 90), (10, 1440)])
async def test_an_interval_that_changes_while_a_slot_is_written_down_counts_from_that_slot(
    autojump_clock: Autojump, before: float, after: float
) -> None:
    log = Held()
    async with open_house(
        log, FakeModel(), FakeWallClock(MONDAY), beats={"clerk": Heartbeat(interval=before)}
    ) as house:
        log.hold()
        async with trio.open_nursery() as nursery:
            await trio.sleep(before * 60 + 1)
            nursery.start_soon(house.set, {"clerk": Heartbeat(interval=after)})
            await trio.sleep(1)
            log.release()
        await trio.sleep(1)
        assert [standing.row.next_slot for standing in house.schedules.standing()] == [MONDAY + (before + after) * 60]
        assert [row.slot for row in await house.rows()] == [MONDAY + before * 60]


async def test_a_slot_that_comes_while_its_interval_is_being_written_is_none_any_more(
    autojump_clock: Autojump,
) -> None:
    log = Held()
    async with open_house(log, FakeModel(), FakeWallClock(MONDAY), beats={"clerk": Heartbeat(interval=10)}) as house:
        await trio.sleep(599)
        log.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.set, {"clerk": Heartbeat(interval=1440)})
            await trio.sleep(2)
            log.release()
        await trio.sleep(HOUR)
        assert await house.rows() == []
        assert [standing.row.next_slot for standing in house.schedules.standing()] == [MONDAY + DAY]


@pytest.mark.parametrize("change", [{}, {"clerk": Heartbeat(interval=90)}], ids=["taken out", "another interval"])
async def test_a_reload_on_a_full_disk_is_in_force_and_is_written_when_there_is_space(
    autojump_clock: Autojump, change: dict[str, Heartbeat]
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    async with open_house(log, FakeModel(), clock, beats={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR / 2)
        log.fail_with = StorageFull("no space left")
        await house.set(change)
        assert house.schedules.names == tuple(f"heartbeat:{name}" for name in change)
        await trio.sleep(HOUR / 2 + 1)
        assert await house.rows() == []
        log.fail_with = None
        await house.set(change)
        await trio.sleep(HOUR)
        assert [(row.slot - MONDAY) / HOUR for row in await house.rows()] == [1.5] * len(change)


async def test_where_no_descriptor_is_free_for_a_wait_the_daemon_goes_on_and_ticks_in_time(
    autojump_clock: Autojump,
) -> None:
    clock = OutOfFiles(MONDAY)
    async with open_house(MemoryLog(), FakeModel(), clock, beats={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR / 2)
        clock.left = False
        clock.set(clock.now())
        await trio.sleep(2 * HOUR)
        clock.left = True
        await trio.sleep(HOUR)
        assert [(row.outcome, row.slot) for row in await house.rows()] == [
            ("ran", MONDAY + n * HOUR) for n in (1, 2, 3)
        ]
