"""When a heartbeat ticks: what is to be done about a schedule now. Pure; the clock and the ledger are others' affair.

Slots lie on a grid, one interval apart, however late each of them is seen to. The next one is in the schedule's row,
and moves past a slot in the transaction that writes down what becomes of it: so none is forgotten, and none is seen
to twice.
"""

import hashlib
from datetime import datetime, tzinfo

from msgspec import Struct

from walrusd.schedule import breaker
from walrusd.store.contract import ScheduleRow

MAX_LATENESS_S = 60.0
"""How long after its time a slot is still run: longer than a laden machine or a restart takes."""


class QuietHours(Struct, frozen=True, kw_only=True):
    """Hours of the day, in minutes since midnight: `since` is in them, `until` is not. They may cross midnight."""

    start_minute: int
    end_minute: int

    def __contains__(self, local_time: datetime) -> bool:
        """`wall` is what a clock on the wall shows: a day has 23 or 25 hours sometimes, and an hour may come twice."""
        minute = local_time.hour * 60 + local_time.minute
        if self.start_minute < self.end_minute:
            return self.start_minute <= minute < self.end_minute
        return minute >= self.start_minute or minute < self.end_minute

    def __str__(self) -> str:
        return " to ".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.start_minute, self.end_minute))


class Cadence(Struct, frozen=True, kw_only=True):
    every_s: float
    jitter_s: float = 0.0
    """Less than `every_s`."""
    quiet_hours: QuietHours | None = None
    zone: tzinfo | None = None
    """Of the clock on the wall. None: the machine's own."""


class RunSlot(Struct, frozen=True):
    """Run this slot; `next_slot` is the one after it."""

    slot: float
    next_slot: float


class SkipSlot(Struct, frozen=True):
    """Do not run this slot, for a reason that the ledger is told."""

    slot: float
    reason: str
    next_slot: float


class RecordMissed(Struct, frozen=True):
    """These slots passed while nobody was there to see to them. The next may be due already."""

    slot: float
    count: int
    next_slot: float


class Reschedule(Struct, frozen=True):
    """No slot is due, and the next is further away than it may be: the clock was set back, or the interval is shorter
    than it was. A new grid begins."""

    next_slot: float


class WaitUntil(Struct, frozen=True):
    until: float


SlotDecision = RunSlot | SkipSlot | RecordMissed | Reschedule | WaitUntil


def next_decision(row: ScheduleRow, cadence: Cadence, now: float, *, running: bool) -> SlotDecision:
    """What is to be done about the schedule at this time; `running`: its last tick has not ended."""
    every, following = cadence.every_s, row.next_slot
    if following > now + every:
        return Reschedule(now + every)
    passed = int((now - following) // every) + 1 if following <= now else 1
    slot = following + (passed - 1) * every
    due = slot + compute_jitter(row.name, slot, cadence.jitter_s)
    if now >= due + min(MAX_LATENESS_S, every):
        return RecordMissed(following, passed, following + passed * every)
    if passed > 1:
        return RecordMissed(following, passed - 1, slot)
    if now < due:
        return WaitUntil(due)
    if reason := _skip_reason(row, cadence, now, running=running):
        return SkipSlot(slot, reason, slot + every)
    return RunSlot(slot, slot + every)


def _skip_reason(row: ScheduleRow, cadence: Cadence, now: float, *, running: bool) -> str:
    if row.paused:
        return "paused"
    if cadence.quiet_hours and datetime.fromtimestamp(now, cadence.zone) in cadence.quiet_hours:
        return f"quiet hours ({cadence.quiet_hours})"
    if running:
        return "the tick before it still runs"
    if breaker.is_open(row, now):
        assert row.closed_until is not None, "that is what an open breaker is"
        until = datetime.fromtimestamp(row.closed_until, cadence.zone)
        counted = f"{row.failures} failures (a refused key counts as three)"
        return f"the breaker is open until {until:%Y-%m-%d %H:%M:%S}, after {counted}"
    return ""


def recompute_next_slot(next_slot: float, old_every_s: float, new_every_s: float, now: float) -> float:
    """The next slot once the interval is another: counted from the last, or from now where that is over already."""
    following = next_slot - old_every_s + new_every_s
    return following if following > now else now + new_every_s


def compute_jitter(name: str, slot: float, max_s: float) -> float:
    """How much later than its time a slot is run: the same after a restart, and not that of another agent."""
    drawn = hashlib.blake2b(f"{name} {slot!r}".encode(), digest_size=8).digest()
    return max_s * int.from_bytes(drawn) / 2**64
