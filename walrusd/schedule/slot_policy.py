"""Decides what to do about a schedule at a given time: run, skip, miss or wait. Pure functions.

Slots lie on a grid, one interval apart, however late each of them is processed. The schedule's row names the next slot.
It moves past a slot in the same transaction that records the slot, so no slot is forgotten and none is processed twice.
"""

import hashlib
from datetime import datetime, tzinfo

from msgspec import Struct

from walrusd.schedule import breaker
from walrusd.store.contract import ScheduleRow

MAX_LATENESS_S = 60.0
"""Maximum seconds after its time that a slot is still run; a loaded machine or a restart takes less."""


class QuietHours(Struct, frozen=True, kw_only=True):
    """Quiet hours, in minutes since midnight; `end_minute` is excluded. They may cross midnight."""

    start_minute: int
    end_minute: int

    def __contains__(self, local_time: datetime) -> bool:
        """Returns whether a local time is quiet.

        A local day may have 23 or 25 hours, and an hour may come twice.
        """
        minute = local_time.hour * 60 + local_time.minute
        if self.start_minute < self.end_minute:
            return self.start_minute <= minute < self.end_minute
        return minute >= self.start_minute or minute < self.end_minute

    def __str__(self) -> str:
        return " to ".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.start_minute, self.end_minute))


class Cadence(Struct, frozen=True, kw_only=True):
    """The interval of a schedule, with its jitter and its quiet hours."""

    every_s: float
    jitter_s: float = 0.0
    """Maximum seconds of random delay; less than `every_s`."""
    quiet_hours: QuietHours | None = None
    zone: tzinfo | None = None
    """The local time zone; None means that of the machine."""


class RunSlot(Struct, frozen=True):
    """Run this slot; `next_slot` is the one after it."""

    slot: float
    next_slot: float


class SkipSlot(Struct, frozen=True):
    """Do not run this slot, and record the reason in the ledger."""

    slot: float
    reason: str
    next_slot: float


class RecordMissed(Struct, frozen=True):
    """Record slots that passed while the scheduler did not run. The next slot may be due already."""

    slot: float
    count: int
    next_slot: float


class Reschedule(Struct, frozen=True):
    """Begin a new grid, because the next slot is more than an interval away.

    The clock was set back, or the interval was made shorter.
    """

    next_slot: float


class WaitUntil(Struct, frozen=True):
    """Nothing is due before this time."""

    until: float


SlotDecision = RunSlot | SkipSlot | RecordMissed | Reschedule | WaitUntil


def next_decision(row: ScheduleRow, cadence: Cadence, now: float, *, running: bool) -> SlotDecision:
    """Returns what to do about the schedule now; `running` means that its last tick has not ended."""
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
        return "the previous tick is still running"
    if breaker.is_open(row, now):
        assert row.closed_until is not None, "an open breaker has a closing time"
        until = datetime.fromtimestamp(row.closed_until, cadence.zone)
        failures = f"{row.failures} failures (a refused key counts as three)"
        return f"the breaker is open until {until:%Y-%m-%d %H:%M:%S}, after {failures}"
    return ""


def recompute_next_slot(next_slot: float, old_every_s: float, new_every_s: float, now: float) -> float:
    """Returns the next slot for a new interval.

    It is counted from the last slot, or from now if that time has passed.
    """
    following = next_slot - old_every_s + new_every_s
    return following if following > now else now + new_every_s


def compute_jitter(name: str, slot: float, max_s: float) -> float:
    """Returns the delay of a slot in seconds: the same after a restart, different for each agent."""
    drawn = hashlib.blake2b(f"{name} {slot!r}".encode(), digest_size=8).digest()
    return max_s * int.from_bytes(drawn) / 2**64
