"""When a heartbeat ticks: every slot once or accounted for, whatever the clock does. And its quiet hours."""

from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from walrusd.schedule import breaker
from walrusd.schedule.slots import (
    LATE_S,
    Decision,
    Missed,
    Move,
    Quiet,
    Rhythm,
    Run,
    Skip,
    Wait,
    at_new_interval,
    jitter_of,
    look,
)
from walrusd.store.log import Schedule

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Quiet(since=23 * 60, until=7 * 60)
HOURLY = Rhythm(every_s=3600.0)
NOW = 1_800_000_000.0
ROW = Schedule(name="heartbeat:clerk", next_slot=NOW)

intervals = st.sampled_from([5.0, 7.3, 60.0, 3600.0, 86_400.0])
rhythms = st.builds(
    lambda every, jitter: Rhythm(every_s=every, jitter_s=every * jitter), intervals, st.sampled_from([0.0, 0.1, 0.9])
)


def look_all(row: Schedule, rhythm: Rhythm, now: float) -> tuple[list[Decision], Schedule]:
    """What is done at this time until there is nothing more to do, and the row after it."""
    done: list[Decision] = []
    while not isinstance(decision := look(row, rhythm, now, running=False), Wait):
        done.append(decision)
        assert decision.next_slot != row.next_slot, "what is done is done"
        row = replace(row, next_slot=decision.next_slot)
        assert len(done) < 5, "it never bursts"
    return done, row


def test_a_slot_is_run_when_it_is_due_and_not_before() -> None:
    assert look(ROW, HOURLY, NOW - 0.1, running=False) == Wait(NOW)
    assert look(ROW, HOURLY, NOW, running=False) == Run(NOW, NOW + 3600)
    assert look(ROW, HOURLY, NOW + LATE_S - 1, running=False) == Run(NOW, NOW + 3600)


def test_slots_that_passed_meanwhile_are_one_row_and_the_last_is_run_if_it_is_not_late() -> None:
    late = NOW + 5 * 3600
    assert look_all(ROW, HOURLY, late + 600) == (
        [Missed(NOW, 6, NOW + 6 * 3600)],
        replace(ROW, next_slot=NOW + 6 * 3600),
    )
    assert look_all(ROW, HOURLY, late + 1)[0] == [Missed(NOW, 5, late), Run(late, late + 3600)]


def test_a_clock_that_was_set_back_begins_a_new_grid_one_interval_from_now() -> None:
    assert look(ROW, HOURLY, NOW - 3600, running=False) == Wait(NOW)
    assert look(ROW, HOURLY, NOW - 3601, running=False) == Move(NOW - 1)


def test_reasons_not_to_run_a_slot_in_the_order_in_which_they_are_told() -> None:
    quiet = replace(HOURLY, quiet=Quiet(since=0, until=24 * 60 - 1), zone=BERLIN)
    opened = replace(ROW, failures=3, closed_until=NOW + 7200)
    reasons = [
        look(replace(opened, paused=True), quiet, NOW, running=True),
        look(opened, quiet, NOW, running=True),
        look(opened, HOURLY, NOW, running=True),
        look(opened, HOURLY, NOW, running=False),
        look(opened, HOURLY, NOW + 7200, running=False),
    ]
    assert [reason.reason if isinstance(reason, Skip) else reason for reason in reasons[:3]] == [
        "paused",
        "quiet hours (00:00 to 23:59)",
        "the tick before it still runs",
    ]
    assert isinstance(reasons[3], Skip)
    assert reasons[3].reason.startswith("the breaker is open until 20")
    assert reasons[3].reason.endswith("failures (a refused key counts as three)")
    assert reasons[4] == Missed(NOW, 2, NOW + 7200)


@given(rhythms, st.lists(st.floats(0, 3), min_size=1, max_size=30))
def test_while_the_clock_only_goes_on_every_slot_of_the_grid_is_told_of_once(
    rhythm: Rhythm, steps: list[float]
) -> None:
    row, now = ROW, NOW - 1
    told: list[float] = []
    for step in steps:
        now += step * rhythm.every_s
        done, row = look_all(row, rhythm, now)
        for decision in done:
            assert isinstance(decision, Run | Missed)
            count = decision.count if isinstance(decision, Missed) else 1
            told += [decision.slot + n * rhythm.every_s for n in range(count)]
        assert now - rhythm.every_s - LATE_S - rhythm.jitter_s < row.next_slot <= now + rhythm.every_s
    for number, slot in enumerate(told):
        assert abs(slot - (NOW + number * rhythm.every_s)) < 1e-3, "slots do not drift"


@given(rhythms, st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_however_the_clock_is_set_the_next_slot_is_never_further_away_than_one_interval(
    rhythm: Rhythm, steps: list[float]
) -> None:
    row, now = ROW, NOW - 1
    for step in steps:
        now += step * rhythm.every_s
        done, row = look_all(row, rhythm, now)
        ran = [decision.slot for decision in done if isinstance(decision, Run)]
        assert len(ran) <= 1
        assert row.next_slot <= now + rhythm.every_s
        waiting = look(row, rhythm, now, running=False)
        assert isinstance(waiting, Wait)
        assert now < waiting.until <= now + rhythm.every_s + rhythm.jitter_s


@given(rhythms, st.lists(st.floats(0, 2), min_size=1, max_size=30), st.data())
def test_a_clock_that_is_only_set_back_brings_no_two_runs_nearer_than_an_interval(
    rhythm: Rhythm, steps: list[float], data: st.DataObject
) -> None:
    """In time that truly passes: a wait is slept through, and then the clock may be set back."""
    row, now, passed, ran = ROW, NOW, 0.0, list[float]()
    for step in steps:
        done, row = look_all(row, rhythm, now)
        ran += [passed for decision in done if isinstance(decision, Run)]
        waiting = look(row, rhythm, now, running=False)
        assert isinstance(waiting, Wait)
        slept = (waiting.until - now) * data.draw(st.sampled_from([0.5, 1.0]))
        passed, now = passed + slept, now + slept - (step if step > 1 else 0) * rhythm.every_s
    least = rhythm.every_s - rhythm.jitter_s
    assert all(later - earlier > least - 1e-3 for earlier, later in pairwise(ran))


@given(st.floats(0, 1e9), st.floats(0.001, 3600))
def test_jitter_is_of_the_slot_and_the_name_and_within_its_bound(slot: float, most: float) -> None:
    assert 0 <= jitter_of("a", slot, most) < most
    assert jitter_of("a", slot, most) == jitter_of("a", slot, most) != jitter_of("b", slot, most)


def test_a_new_interval_counts_from_the_last_slot_where_that_is_still_to_come() -> None:
    assert at_new_interval(NOW + 60, 300, 3600, NOW) == NOW + 60 - 300 + 3600
    assert at_new_interval(NOW + 3000, 3600, 300, NOW) == NOW + 300


def quiet_slots(first: datetime) -> list[str]:
    """The slots of a day from `first` on that fall into the night, as the wall shows them."""
    rhythm, last = Rhythm(every_s=1800.0, quiet=NIGHT, zone=BERLIN), first + timedelta(days=1)
    quiet = []
    slot = first.timestamp()
    while slot < last.timestamp():
        decision = look(Schedule(name="heartbeat:clerk", next_slot=slot), rhythm, slot, running=False)
        assert isinstance(decision, Run | Skip)
        if isinstance(decision, Skip):
            quiet.append(f"{datetime.fromtimestamp(slot, BERLIN):%H:%M}")
        slot = decision.next_slot
    return quiet


EVENING = ["23:00", "23:30"]
MORNING = [f"{hour:02}:{minute:02}" for hour in range(7) for minute in (0, 30)]


def test_quiet_hours_cross_midnight() -> None:
    assert quiet_slots(datetime(2026, 3, 10, 12, tzinfo=BERLIN)) == EVENING + MORNING


def test_quiet_hours_end_when_the_wall_says_so_on_the_day_that_has_23_hours() -> None:
    spring = [hour for hour in MORNING if not hour.startswith("02")]
    assert quiet_slots(datetime(2026, 3, 28, 12, tzinfo=BERLIN)) == EVENING + spring


def test_quiet_hours_end_when_the_wall_says_so_on_the_day_that_has_25_hours() -> None:
    autumn = sorted([*MORNING, "02:00", "02:30"])
    assert sorted(quiet_slots(datetime(2026, 10, 24, 12, tzinfo=BERLIN))) == sorted(EVENING + autumn)


def test_hours_within_one_day_are_quiet_from_their_begin_until_before_their_end() -> None:
    noon = Quiet(since=12 * 60, until=13 * 60)
    at = [datetime(2026, 5, 5, hour, minute, tzinfo=BERLIN) for hour, minute in ((11, 59), (12, 0), (12, 59), (13, 0))]
    assert [moment in noon for moment in at] == [False, True, True, False]


def test_the_breaker_opens_at_the_third_failure_and_doubles_up_to_a_day() -> None:
    row, opened = ROW, []
    for _ in range(10):
        row = breaker.after_failure(row, 3600.0, NOW, at_once=False)
        opened.append(None if row.closed_until is None else row.closed_until - NOW)
    hours = [None if seconds is None else seconds / 3600 for seconds in opened]
    assert hours == [None, None, 2, 4, 8, 16, 24, 24, 24, 24]
    assert row.failures == 10
    assert breaker.closed(row) == ROW


def test_a_failure_that_the_next_tick_would_repeat_opens_it_at_once() -> None:
    row = breaker.after_failure(ROW, 60.0, NOW, at_once=True)
    assert (row.failures, row.closed_until) == (3, NOW + 120)
    again = breaker.after_failure(row, 60.0, NOW, at_once=False)
    assert again.closed_until == NOW + 240


def test_an_open_breaker_is_open_for_a_day_at_most_though_the_clock_was_set_back() -> None:
    row = replace(ROW, closed_until=NOW + 3600)
    assert [breaker.is_open(row, now) for now in (NOW - 90_000, NOW, NOW + 3600)] == [False, True, False]
