"""Tests of slot_policy and the breaker: each slot is handled once, whatever the clock does."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import accumulate, count, pairwise, takewhile
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from walrusd.schedule import breaker
from walrusd.schedule.slot_policy import (
    MAX_LATENESS_S,
    Cadence,
    Grid,
    QuietHours,
    RecordMissed,
    Reschedule,
    RunSlot,
    SkipSlot,
    SlotDecision,
    WaitUntil,
    compute_jitter,
    next_decision,
)
from walrusd.store.tables.schedule import ScheduleRow

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT_HOURS = QuietHours(start_minute=23 * 60, end_minute=7 * 60)
HOURLY = Cadence(slots=Grid(3600.0))
NOW = 1_800_000_000.0
ROW = ScheduleRow(name="heartbeat:clerk", next_slot=NOW)

intervals = st.sampled_from([5.0, 7.3, 60.0, 3600.0, 86_400.0])
grids = st.builds(Grid, intervals)
jitters = st.sampled_from([0.0, 0.1, 0.9])


def decide_all(row: ScheduleRow, cadence: Cadence, now: float) -> tuple[list[SlotDecision], ScheduleRow]:
    """Applies decisions at this time until nothing is left to do; returns them and the row after them."""
    done: list[SlotDecision] = []
    while not isinstance(decision := next_decision(row, cadence, now, running=False), WaitUntil):
        done.append(decision)
        assert decision.next_slot != row.next_slot, "each decision moves the next slot"
        row = replace(row, next_slot=decision.next_slot)
        assert len(done) < 5, "there are no bursts"
    return done, row


def test_a_slot_is_run_when_it_is_due_and_not_before() -> None:
    assert next_decision(ROW, HOURLY, NOW - 0.1, running=False) == WaitUntil(NOW)
    assert next_decision(ROW, HOURLY, NOW, running=False) == RunSlot(NOW, NOW + 3600)
    assert next_decision(ROW, HOURLY, NOW + MAX_LATENESS_S - 1, running=False) == RunSlot(NOW, NOW + 3600)


def test_passed_slots_are_one_row_and_the_last_is_run_if_it_is_not_late() -> None:
    late = NOW + 5 * 3600
    assert decide_all(ROW, HOURLY, late + 600) == (
        [RecordMissed(NOW, 6, NOW + 6 * 3600)],
        replace(ROW, next_slot=NOW + 6 * 3600),
    )
    assert decide_all(ROW, HOURLY, late + 1)[0] == [RecordMissed(NOW, 5, late), RunSlot(late, late + 3600)]


def test_after_the_clock_was_set_back_a_new_grid_begins_one_interval_from_now() -> None:
    assert next_decision(ROW, HOURLY, NOW - 3600, running=False) == WaitUntil(NOW)
    assert next_decision(ROW, HOURLY, NOW - 3601, running=False) == Reschedule(NOW - 1)


class UnevenSlots(Struct, frozen=True):
    """Slots at 0, 1, 3, 6, 10 … hours after NOW, as a calendar might have them."""

    def next_after(self, time: float) -> float:
        return next(slot for slot in self._all() if slot > time)

    def passed(self, first: float, now: float) -> tuple[int, float]:
        found = [first, *(slot for slot in takewhile(lambda slot: slot <= now, self._all()) if slot > first)]
        return len(found), found[-1]

    def _all(self) -> Iterator[float]:
        return (NOW + hours * 3600 for hours in accumulate(count()))


def test_slots_need_not_be_evenly_spaced() -> None:
    uneven, sixth = Cadence(slots=UnevenSlots()), NOW + 6 * 3600
    assert decide_all(ROW, uneven, NOW)[0] == [RunSlot(NOW, NOW + 3600)]
    assert decide_all(ROW, uneven, sixth)[0] == [RecordMissed(NOW, 3, sixth), RunSlot(sixth, NOW + 10 * 3600)]
    assert decide_all(ROW, uneven, sixth + 600)[0] == [RecordMissed(NOW, 4, NOW + 10 * 3600)]
    ahead = replace(ROW, next_slot=NOW + 10 * 3600)
    assert decide_all(ahead, uneven, NOW + 5 * 3600)[0] == [Reschedule(sixth)]


def test_the_reasons_to_skip_a_slot_have_a_fixed_order() -> None:
    quiet = replace(HOURLY, quiet_hours=QuietHours(start_minute=0, end_minute=24 * 60 - 1), zone=BERLIN)
    opened = replace(ROW, failures=3, closed_until=NOW + 7200)
    reasons = [
        next_decision(replace(opened, paused=True), quiet, NOW, running=True),
        next_decision(opened, quiet, NOW, running=True),
        next_decision(opened, HOURLY, NOW, running=True),
        next_decision(opened, HOURLY, NOW, running=False),
        next_decision(opened, HOURLY, NOW + 7200, running=False),
    ]
    assert [reason.reason if isinstance(reason, SkipSlot) else reason for reason in reasons[:3]] == [
        "paused",
        "quiet hours (00:00 to 23:59)",
        "the previous tick is still running",
    ]
    assert isinstance(reasons[3], SkipSlot)
    assert reasons[3].reason.startswith("the breaker is open until 20")
    assert reasons[3].reason.endswith("failures (a refused key counts as three)")
    assert reasons[4] == RecordMissed(NOW, 2, NOW + 7200)


@given(grids, jitters, st.lists(st.floats(0, 3), min_size=1, max_size=30))
def test_while_the_clock_only_advances_every_slot_is_recorded_once(
    grid: Grid, jitter: float, steps: list[float]
) -> None:
    cadence = Cadence(slots=grid, jitter_s=grid.every_s * jitter)
    row, now = ROW, NOW - 1
    recorded: list[float] = []
    for step in steps:
        now += step * grid.every_s
        done, row = decide_all(row, cadence, now)
        for decision in done:
            assert isinstance(decision, RunSlot | RecordMissed)
            slots = decision.count if isinstance(decision, RecordMissed) else 1
            recorded += [decision.slot + n * grid.every_s for n in range(slots)]
        assert now - grid.every_s - MAX_LATENESS_S - cadence.jitter_s < row.next_slot <= now + grid.every_s
    for number, slot in enumerate(recorded):
        assert abs(slot - (NOW + number * grid.every_s)) < 1e-3, "slots do not drift"


@given(grids, jitters, st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_next_slot_is_at_most_one_interval_away_however_the_clock_is_set(
    grid: Grid, jitter: float, steps: list[float]
) -> None:
    cadence = Cadence(slots=grid, jitter_s=grid.every_s * jitter)
    row, now = ROW, NOW - 1
    for step in steps:
        now += step * grid.every_s
        done, row = decide_all(row, cadence, now)
        ran = [decision.slot for decision in done if isinstance(decision, RunSlot)]
        assert len(ran) <= 1
        assert row.next_slot <= now + grid.every_s
        waiting = next_decision(row, cadence, now, running=False)
        assert isinstance(waiting, WaitUntil)
        assert now < waiting.until <= now + grid.every_s + cadence.jitter_s


@given(grids, jitters, st.lists(st.floats(0, 2), min_size=1, max_size=30), st.data())
def test_runs_are_an_interval_apart_if_the_clock_is_only_set_back(
    grid: Grid, jitter: float, steps: list[float], data: st.DataObject
) -> None:
    """Real time is measured: after each wait, whole or half, the clock may be set back."""
    cadence = Cadence(slots=grid, jitter_s=grid.every_s * jitter)
    row, now, passed, ran = ROW, NOW, 0.0, list[float]()
    for step in steps:
        done, row = decide_all(row, cadence, now)
        ran += [passed for decision in done if isinstance(decision, RunSlot)]
        waiting = next_decision(row, cadence, now, running=False)
        assert isinstance(waiting, WaitUntil)
        slept = (waiting.until - now) * data.draw(st.sampled_from([0.5, 1.0]))
        passed, now = passed + slept, now + slept - (step if step > 1 else 0) * grid.every_s
    least = grid.every_s - cadence.jitter_s
    assert all(later - earlier > least - 1e-3 for earlier, later in pairwise(ran))


@given(st.floats(0, 1e9), st.floats(0.001, 3600))
def test_jitter_depends_on_slot_and_name_and_stays_below_its_maximum(slot: float, maximum: float) -> None:
    assert 0 <= compute_jitter("a", slot, maximum) < maximum
    assert (
        compute_jitter("a", slot, maximum) == compute_jitter("a", slot, maximum) != compute_jitter("b", slot, maximum)
    )


def test_a_new_interval_counts_from_the_last_slot_if_that_is_in_the_future() -> None:
    assert Grid(3600).moved_slot(Grid(300), NOW + 60, NOW) == NOW + 60 - 300 + 3600
    assert Grid(300).moved_slot(Grid(3600), NOW + 3000, NOW) == NOW + 300


def quiet_slots(first: datetime) -> list[str]:
    """Returns the local times of the slots within a day from `first` that are skipped as quiet."""
    cadence, last = Cadence(slots=Grid(1800.0), quiet_hours=NIGHT_HOURS, zone=BERLIN), first + timedelta(days=1)
    quiet = []
    slot = first.timestamp()
    while slot < last.timestamp():
        decision = next_decision(ScheduleRow(name="heartbeat:clerk", next_slot=slot), cadence, slot, running=False)
        assert isinstance(decision, RunSlot | SkipSlot)
        if isinstance(decision, SkipSlot):
            quiet.append(f"{datetime.fromtimestamp(slot, BERLIN):%H:%M}")
        slot = decision.next_slot
    return quiet


EVENING = ["23:00", "23:30"]
MORNING = [f"{hour:02}:{minute:02}" for hour in range(7) for minute in (0, 30)]


def test_quiet_hours_cross_midnight() -> None:
    assert quiet_slots(datetime(2026, 3, 10, 12, tzinfo=BERLIN)) == EVENING + MORNING


def test_quiet_hours_follow_the_wall_clock_on_the_day_of_23_hours() -> None:
    spring = [hour for hour in MORNING if not hour.startswith("02")]
    assert quiet_slots(datetime(2026, 3, 28, 12, tzinfo=BERLIN)) == EVENING + spring


def test_quiet_hours_follow_the_wall_clock_on_the_day_of_25_hours() -> None:
    autumn = sorted([*MORNING, "02:00", "02:30"])
    assert sorted(quiet_slots(datetime(2026, 10, 24, 12, tzinfo=BERLIN))) == sorted(EVENING + autumn)


def test_quiet_hours_within_one_day_include_their_start_and_not_their_end() -> None:
    noon = QuietHours(start_minute=12 * 60, end_minute=13 * 60)
    at = [datetime(2026, 5, 5, hour, minute, tzinfo=BERLIN) for hour, minute in ((11, 59), (12, 0), (12, 59), (13, 0))]
    assert [moment in noon for moment in at] == [False, True, True, False]


def test_the_breaker_opens_at_the_third_failure_and_doubles_up_to_a_day() -> None:
    row, opened = ROW, []
    for _ in range(10):
        row = breaker.after_failure(row, 3600.0, NOW, opens_breaker=False)
        opened.append(None if row.closed_until is None else row.closed_until - NOW)
    hours = [None if seconds is None else seconds / 3600 for seconds in opened]
    assert hours == [None, None, 2, 4, 8, 16, 24, 24, 24, 24]
    assert row.failures == 10
    assert breaker.reset(row) == ROW


def test_a_failure_that_the_next_tick_would_repeat_opens_the_breaker_at_once() -> None:
    row = breaker.after_failure(ROW, 60.0, NOW, opens_breaker=True)
    assert (row.failures, row.closed_until) == (3, NOW + 120)
    again = breaker.after_failure(row, 60.0, NOW, opens_breaker=False)
    assert again.closed_until == NOW + 240


def test_a_breaker_is_open_for_a_day_at_most_even_if_the_clock_was_set_back() -> None:
    row = replace(ROW, closed_until=NOW + 3600)
    assert [breaker.is_open(row, now) for now in (NOW - 90_000, NOW, NOW + 3600)] == [False, True, False]
