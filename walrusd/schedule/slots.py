"""When a heartbeat ticks: what is to be done about a schedule now. Pure; the clock and the ledger are others' affair.

Slots lie on a grid, one interval apart, however late each of them is seen to. The next one is in the schedule's row,
and moves past a slot in the transaction that writes down what becomes of it: so none is forgotten, and none is seen
to twice.
"""

import hashlib
from datetime import datetime, tzinfo

from msgspec import Struct

from walrusd.schedule import breaker
from walrusd.store.log import Schedule

LATE_S = 60.0
"""How long after its time a slot is still run: longer than a laden machine or a restart takes."""


class Quiet(Struct, frozen=True, kw_only=True):
    """Hours of the day, in minutes since midnight: `since` is in them, `until` is not. They may cross midnight."""

    since: int
    until: int

    def __contains__(self, wall: datetime) -> bool:
        """`wall` is what a clock on the wall shows: a day has 23 or 25 hours sometimes, and an hour may come twice."""
        minute = wall.hour * 60 + wall.minute
        if self.since < self.until:
            return self.since <= minute < self.until
        return minute >= self.since or minute < self.until

    def __str__(self) -> str:
        return " to ".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.since, self.until))


class Rhythm(Struct, frozen=True, kw_only=True):
    every_s: float
    jitter_s: float = 0.0
    """Less than `every_s`."""
    quiet: Quiet | None = None
    zone: tzinfo | None = None
    """Of the clock on the wall. None: the machine's own."""


class Run(Struct, frozen=True):
    """Run this slot; `next_slot` is the one after it."""

    slot: float
    next_slot: float


class Skip(Struct, frozen=True):
    """Do not run this slot, for a reason that the ledger is told."""

    slot: float
    reason: str
    next_slot: float


class Missed(Struct, frozen=True):
    """These slots passed while nobody was there to see to them. The next may be due already."""

    slot: float
    count: int
    next_slot: float


class Move(Struct, frozen=True):
    """No slot is due, and the next is further away than it may be: the clock was set back, or the interval is shorter
    than it was. A new grid begins."""

    next_slot: float


class Wait(Struct, frozen=True):
    until: float


Decision = Run | Skip | Missed | Move | Wait


def look(row: Schedule, rhythm: Rhythm, now: float, *, running: bool) -> Decision:
    """What is to be done about the schedule at this time; `running`: its last tick has not ended."""
    every, following = rhythm.every_s, row.next_slot
    if following > now + every:
        return Move(now + every)
    passed = int((now - following) // every) + 1 if following <= now else 1
    slot = following + (passed - 1) * every
    due = slot + jitter_of(row.name, slot, rhythm.jitter_s)
    if now >= due + min(LATE_S, every):
        return Missed(following, passed, following + passed * every)
    if passed > 1:
        return Missed(following, passed - 1, slot)
    if now < due:
        return Wait(due)
    if reason := _reason_not_to(row, rhythm, now, running=running):
        return Skip(slot, reason, slot + every)
    return Run(slot, slot + every)


def _reason_not_to(row: Schedule, rhythm: Rhythm, now: float, *, running: bool) -> str:
    if row.paused:
        return "paused"
    if rhythm.quiet and datetime.fromtimestamp(now, rhythm.zone) in rhythm.quiet:
        return f"quiet hours ({rhythm.quiet})"
    if running:
        return "the tick before it still runs"
    if breaker.is_open(row, now):
        assert row.closed_until is not None, "that is what an open breaker is"
        until = datetime.fromtimestamp(row.closed_until, rhythm.zone)
        counted = f"{row.failures} failures (a refused key counts as three)"
        return f"the breaker is open until {until:%Y-%m-%d %H:%M:%S}, after {counted}"
    return ""


def at_new_interval(next_slot: float, before_s: float, every_s: float, now: float) -> float:
    """The next slot once the interval is another: counted from the last, or from now where that is over already."""
    following = next_slot - before_s + every_s
    return following if following > now else now + every_s


def jitter_of(name: str, slot: float, most_s: float) -> float:
    """How much later than its time a slot is run: the same after a restart, and not that of another agent."""
    drawn = hashlib.blake2b(f"{name} {slot!r}".encode(), digest_size=8).digest()
    return most_s * int.from_bytes(drawn) / 2**64
