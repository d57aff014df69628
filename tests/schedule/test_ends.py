"""Ticks that are cut off: by a stop, by a power cut at any write, by a disk that is full. No slot is paid twice."""

from collections import Counter

import pytest
import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import FakeModel, Gate, says
from tests.schedule.house import HOUR, MONDAY, NAME, Probe, open_house
from walrus_config.schema import Heartbeat
from walrus_protocol.events import Ran
from walrus_protocol.problems import Problem
from walrusd.ports import ModelRequest, Reply, Say, TextSaid
from walrusd.runtime.inbox import Incoming
from walrusd.schedule.probe import Probed
from walrusd.store.disk import Disk
from walrusd.store.log import StorageFailed, StorageFull, Write
from walrusd.store.memory import MemoryLog

HOURLY = Heartbeat(interval=60, prompt="Look around.")
SAME = Heartbeat(interval=60, prompt="Look around.", session="same")

Autojump = trio.abc.Clock


class Mortal(MemoryLog):
    """Loses power at its nth write: that one and all after it are never done."""

    def __init__(self, disk: Disk | None, writes: int) -> None:
        super().__init__(disk)
        self.left = writes
        self.dead = trio.Event()

    def submit(self, write: Write) -> None:
        if self.left == 0:
            self.fail_with = StorageFailed("no power")
            self.dead.set()
        else:
            self.left -= 1
        super().submit(write)


async def test_a_running_tick_is_suspended_by_a_stop_and_told_at_the_next_start(autojump_clock: Autojump) -> None:
    log, clock, gate = MemoryLog(), FakeWallClock(MONDAY), Gate(before="I am look")
    async with open_house(log, FakeModel(gate), clock, beats={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR + 1)
        assert [(row.outcome, row.ran) for row in await house.rows()] == [("running", Ran(session=1, turn=1))]
    assert [row.outcome for row in await log.ticks()] == ["running"]
    async with open_house(MemoryLog(log.disk), FakeModel(), clock, beats={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR)
        first, second = await house.rows()
        assert (first.outcome, first.reason, first.ran, first.news, first.ended_at) == (
            "interrupted",
            "walrusd was stopped while it ran",
            Ran(session=1, turn=1, cost_usd=None),
            True,
            MONDAY + HOUR + 1,
        )
        assert second.outcome == "ran"
        assert [standing.row.failures for standing in house.schedules.standing()] == [0]
        assert (await house.runtime.session(1)).state == "closed"


async def test_a_tick_whose_turn_still_waited_for_a_slot_is_not_paid_unseen_after_a_restart(
    autojump_clock: Autojump,
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    beats = {"clerk": HOURLY, "poet": Heartbeat(interval=61)}
    async with open_house(log, FakeModel(Gate()), clock, beats=beats, max_running_turns=1):
        await trio.sleep(1.5 * HOUR)
    model = FakeModel(Gate())
    async with open_house(MemoryLog(log.disk), model, clock, beats=beats, max_running_turns=1) as house:
        await trio.sleep(60)
        [row] = await house.rows("heartbeat:poet")
        assert (row.outcome, row.ran and row.ran.session) == ("interrupted", 2)
        assert (await house.runtime.session(2)).state == "closed"
        await trio.sleep(60)
    assert len(model.asked) <= 1, "what had begun before the row was closed was cut off"


@pytest.mark.parametrize("after", [Heartbeat(interval=0), HOURLY, SAME], ids=["off", "a new one each", "the same"])
async def test_a_session_that_is_used_again_is_a_persons_too_and_outlives_the_heartbeat_that_was_cut_off(
    autojump_clock: Autojump, after: Heartbeat
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    async with open_house(log, FakeModel(Gate()), clock, beats={"clerk": SAME}) as house:
        await trio.sleep(HOUR + 1)
        await house.runtime.send(1, Incoming(content="A question of a person's"))
    async with open_house(MemoryLog(log.disk), FakeModel(), clock, beats={"clerk": after}) as house:
        await trio.sleep(60)
        assert await house.told() == [("interrupted", "walrusd was stopped while it ran")]
        assert (await house.runtime.session(1)).state == "idle"


async def test_a_turn_that_is_taken_up_after_a_restart_has_its_cost_in_its_row(autojump_clock: Autojump) -> None:
    async def slow(_: ModelRequest, __: Say) -> Reply:
        await trio.sleep(HOUR / 2)
        return Reply(content="done", cost_usd=0.25)

    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    beats = {"poet": Heartbeat(interval=59), "clerk": SAME}
    async with open_house(log, FakeModel(Gate()), clock, beats=beats, max_running_turns=1):
        await trio.sleep(HOUR + 1)
    async with open_house(MemoryLog(log.disk), FakeModel(slow), clock, beats=beats, max_running_turns=1) as house:
        await trio.sleep(60)
        [row] = await house.rows()
        assert (row.outcome, row.ran) == ("running", Ran(session=2, turn=1))
        await trio.sleep(HOUR / 2)
        [row] = await house.rows()
        assert (row.outcome, row.ran) == ("interrupted", Ran(session=2, turn=1, cost_usd=0.25))


async def test_a_turn_that_ends_within_the_grace_has_its_row(autojump_clock: Autojump) -> None:
    async def slow(_: ModelRequest, __: Say) -> Reply:
        await trio.sleep(5)
        return Reply(content="done", cost_usd=0.25)

    log = MemoryLog()
    async with open_house(log, FakeModel(slow), FakeWallClock(MONDAY), grace_s=10, beats={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR + 1)
    [row] = await log.ticks()
    assert (row.outcome, row.text, row.ran) == ("ran", "done", Ran(session=1, turn=1, cost_usd=0.25))
    assert house.schedules.names == (NAME,)


async def test_a_stop_ends_a_probe_and_begins_no_turn(autojump_clock: Autojump) -> None:
    async def hangs(command: str, folder: str) -> Probed:
        await trio.sleep_forever()
        raise AssertionError

    log, model = MemoryLog(), FakeModel()
    beat = Heartbeat(interval=60, probe="sleep infinity")
    async with open_house(log, model, FakeWallClock(MONDAY), probe=hangs, grace_s=1000, beats={"clerk": beat}):
        await trio.sleep(HOUR + 1)
    assert trio.current_time() == HOUR + 1, "a probe has no part in the grace of turns"
    assert [(row.outcome, row.reason) for row in await log.ticks()] == [("skipped", "walrusd is stopping")]
    assert model.asked == []


async def test_who_waits_for_a_tick_by_hand_is_told_that_walrusd_stops(autojump_clock: Autojump) -> None:
    told: list[str] = []

    async def by_hand() -> None:
        with pytest.raises(Problem) as refused:
            await house.schedules.tick_now(NAME)
        told.append(refused.value.kind)

    async with trio.open_nursery() as nursery:
        async with open_house(MemoryLog(), FakeModel(Gate()), FakeWallClock(MONDAY), beats={"clerk": HOURLY}) as house:
            nursery.start_soon(by_hand)
            await trio.sleep(1)
        nursery.start_soon(by_hand)
    assert told == ["shutting_down", "shutting_down"]


@pytest.mark.parametrize("beat", [HOURLY, SAME, Heartbeat(interval=60, probe="ls")], ids=["new", "same", "probing"])
async def test_a_power_cut_at_any_write_runs_no_slot_twice_and_leaves_none_untold(
    autojump_clock: Autojump, beat: Heartbeat
) -> None:
    for writes in range(1, 30):
        clock, disk, paid = FakeWallClock(MONDAY), Disk(), list[int]()

        async def pays(_: ModelRequest, say: Say, clock: FakeWallClock = clock, paid: list[int] = paid) -> Reply:
            say(TextSaid("half"))
            await trio.sleep(1)
            paid.append(int((clock.now() - MONDAY) // HOUR))
            return Reply(content="HEARTBEAT_OK", cost_usd=0.01)

        mortal = Mortal(disk, writes)
        with trio.move_on_after(2.5 * HOUR):
            async with open_house(mortal, FakeModel(pays), clock, probe=Counting(), beats={"clerk": beat}):
                await mortal.dead.wait()
                MemoryLog(disk)  # it has the disk from here on: nothing that is written later counts
        async with open_house(
            MemoryLog(disk), FakeModel(pays), clock, probe=Counting(), beats={"clerk": beat}
        ) as house:
            await trio.sleep(MONDAY + 4.5 * HOUR - clock.now())
            rows = await house.rows()
            sessions = await house.runtime.sessions()
        slots = [round((row.slot - MONDAY) / HOUR) + n for row in rows for n in range(row.count)]
        assert slots == [1, 2, 3, 4], f"after {writes} writes"
        assert not [row for row in rows if row.outcome == "running"], f"after {writes} writes"
        assert max(Counter(paid).values()) == 1, f"after {writes} writes"
        assert len(sessions) <= (beat.session == "same"), "none is open but the one that is used again"


@pytest.mark.parametrize("crash", [True, False])
async def test_three_crashes_in_mid_tick_open_the_breaker_and_three_stops_do_not(
    autojump_clock: Autojump, crash: bool
) -> None:
    clock, disk = FakeWallClock(MONDAY), Disk()
    for _ in range(3):
        async with open_house(MemoryLog(disk), FakeModel(Gate()), clock, beats={"clerk": HOURLY}):
            await trio.sleep(HOUR + 1)
            if crash:
                MemoryLog(disk)  # it has the disk from here on: nothing that is written later counts
    async with open_house(MemoryLog(disk), FakeModel(), clock, beats={"clerk": HOURLY}) as house:
        await trio.sleep(60)
        [standing] = house.schedules.standing()
        assert (standing.row.failures, standing.row.closed_until is not None) == ((3, True) if crash else (0, False))
        ended = "ended" if crash else "was stopped"
        assert await house.told() == [("interrupted", f"walrusd {ended} while it ran")] * 3


class Counting:
    """A probe that says something else each time."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, command: str, folder: str) -> Probed:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return Probed(status=0, said="", digest=f"{id(self)} {self.asked}")


async def test_a_disk_that_is_full_keeps_a_slot_from_being_paid_and_the_ledger_tells_it_later(
    autojump_clock: Autojump,
) -> None:
    log, model = MemoryLog(), FakeModel()
    async with open_house(log, model, FakeWallClock(MONDAY), beats={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR / 2)
        log.fail_with = StorageFull("no space left")
        await trio.sleep(2 * HOUR)
        with pytest.raises(Problem) as refused:
            await house.schedules.tick_now(NAME)
        assert refused.value.kind == "storage_full"
        assert model.asked == []
        log.fail_with = None
        await trio.sleep(HOUR)
        rows = [(row.outcome, row.slot, row.count) for row in await house.rows()]
        assert rows == [("missed", MONDAY + HOUR, 2), ("ran", MONDAY + 3 * HOUR, 1)]


async def test_the_row_of_a_turn_that_ended_on_a_full_disk_is_written_once_there_is_space(
    autojump_clock: Autojump,
) -> None:
    log, gate = MemoryLog(), Gate()
    async with open_house(log, FakeModel(gate), FakeWallClock(MONDAY), beats={"clerk": HOURLY}) as house:
        await trio.sleep(HOUR + 1)
        log.fail_with = StorageFull("no space left")
        gate.opened.set()
        await trio.sleep(600)
        assert [row.outcome for row in await house.rows()] == ["running"]
        log.fail_with = None
        await trio.sleep(60)
        [row] = await house.rows()
        assert (row.outcome, row.reason, row.ran) == (
            "failed",
            "storage_full: no space left",
            Ran(session=1, turn=1, cost_usd=None),
        )


class FullSoon(MemoryLog):
    """Has room for so many writes more."""

    left = 100

    def submit(self, write: Write) -> None:
        self.left -= 1
        self.fail_with = StorageFull("no space left") if self.left < 0 else None
        super().submit(write)


async def test_a_disk_that_fills_up_at_any_write_of_a_tick_leaves_none_of_its_sessions_open(
    autojump_clock: Autojump,
) -> None:
    for writes in range(10):
        log = FullSoon()
        async with open_house(log, FakeModel(), FakeWallClock(MONDAY), beats={"clerk": HOURLY}) as house:
            await trio.sleep(HOUR / 2)
            log.left = writes
            await trio.sleep(HOUR)
            log.left = 100
            await trio.sleep(120)
            assert await house.runtime.sessions() == [], f"after {writes} writes"
            assert [outcome for outcome, _ in await house.told()] in (["missed"], ["failed"], ["ran"])


async def test_a_daemon_that_starts_on_a_full_disk_ticks_when_there_is_space(autojump_clock: Autojump) -> None:
    log, model = MemoryLog(), FakeModel(says("HEARTBEAT_OK"))
    log.fail_with = StorageFull("no space left")
    async with open_house(log, model, FakeWallClock(MONDAY), probe=Probe(), beats={"clerk": HOURLY}) as house:
        await trio.sleep(60)
        log.fail_with = None
        await trio.sleep(HOUR)
        assert [(row.outcome, row.slot) for row in await house.rows()] == [("ran", MONDAY + HOUR)]
