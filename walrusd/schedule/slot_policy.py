"""Decides what to do about a schedule at a given time: run, skip, miss or wait. Pure functions.

A slot's time does not depend on how late the one before was processed. The schedule's row names the next slot. It moves
past a slot in the same transaction that records the slot, so no slot is forgotten and none is processed twice.
"""

import hashlib
from datetime import datetime, tzinfo
from typing import Protocol

from msgspec import Struct

from walrusd.schedule import breaker
from walrusd.store.tables.schedule import ScheduleRow

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


class Slots(Protocol):
    """The times of a schedule."""

    def next_after(self, time: float) -> float:
        """Returns the slot after that time, which may be a slot itself."""

    def passed(self, first: float, now: float) -> tuple[int, float]:
        """Returns the number of slots from `first` to `now`, and the last of them; at least `first` itself."""


class Grid(Struct, frozen=True):
    """A fixed grid, which begins at any slot; implements Slots."""

    every_s: float

    def next_after(self, time: float) -> float:
        return time + self.every_s

    def passed(self, first: float, now: float) -> tuple[int, float]:
        count = int((now - first) // self.every_s) + 1 if first <= now else 1
        return count, first + (count - 1) * self.every_s

    def moved_slot(self, before: "Grid", next_slot: float, now: float) -> float:
        """Returns the next slot if this grid replaces `before`.

        It is counted from the last slot, or from now if that time has passed.
        """
        following = next_slot - before.every_s + self.every_s
        return following if following > now else self.next_after(now)


class Cadence(Struct, frozen=True, kw_only=True):
    """The slots of a schedule, with its jitter and its quiet hours."""

    slots: Slots
    jitter_s: float = 0.0
    """Maximum seconds of random delay; less than between two slots."""
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
    """Begin again with the first slot after now, because the next slot is later than that.

    The clock was set back, or the interval was made shorter.
    """

    next_slot: float


class WaitUntil(Struct, frozen=True):
    """Nothing is due before this time."""

    until: float


SlotDecision = RunSlot | SkipSlot | RecordMissed | Reschedule | WaitUntil


def next_decision(row: ScheduleRow, cadence: Cadence, now: float, *, running: bool) -> SlotDecision:
    """Returns what to do about the schedule now; `running` means that its last tick has not ended."""
    slots, following = cadence.slots, row.next_slot
    if following > (restart := slots.next_after(now)):
        return Reschedule(restart)
    passed, slot = slots.passed(following, now)
    next_slot = slots.next_after(slot)
    due = slot + compute_jitter(row.name, slot, cadence.jitter_s)
    if now >= due + min(MAX_LATENESS_S, next_slot - slot):
        return RecordMissed(following, passed, next_slot)
    if passed > 1:
        return RecordMissed(following, passed - 1, slot)
    if now < due:
        return WaitUntil(due)
    if reason := _skip_reason(row, cadence, now, running=running):
        return SkipSlot(slot, reason, next_slot)
    return RunSlot(slot, next_slot)


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


def compute_jitter(name: str, slot: float, max_s: float) -> float:
    """Returns the delay of a slot in seconds: the same after a restart, different for each agent."""
    drawn = hashlib.blake2b(f"{name} {slot!r}".encode(), digest_size=8).digest()
    return max_s * int.from_bytes(drawn) / 2**64
