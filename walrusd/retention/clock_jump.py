"""Detects jumps of the wall clock, so that a wrong clock does not make retention delete sessions.

A clock that was set wrong may be years ahead for minutes or a night. All sessions are then older than their retention
period of, for example, ninety days. So retention waits after a jump, until the clock may have been corrected.
"""

import structlog
import trio
from msgspec import Struct

from walrus_protocol.json import BadJson, Decoder
from walrusd.ports import Clock
from walrusd.store.contract import Log, StreamFilter
from walrusd.store.errors import StorageFailed

log = structlog.get_logger("walrusd")

DAY_S = 86_400.0
"""Seconds of a day."""
MIN_JUMP_S = DAY_S
"""Seconds of the smallest jump that counts.

A smaller one is ignored: a session is deleted at most one day early.
"""
WAIT_FRACTION = 1 / 24
"""Fraction of the jump that retention waits: two hours after a weekend, and never more than a day.

The clock of a machine that was off for that long is most likely right.
"""
TAIL_EVENTS = 16
"""Number of offsets at the end of the log in which the last listed event is searched."""


class _EventTimestamp(Struct):
    ts: float


_timestamp_decoder = Decoder(_EventTimestamp)


class ClockJumpGuard:
    """Compares the wall clock with the monotonic clock: if it advanced by a day more, that is a jump."""

    def __init__(self, clock: Clock, last_run_at: float | None) -> None:
        """`last_run_at` is the unix time when walrusd last ran, or None if it is unknown."""
        self._clock = clock
        self._wall_time = clock() if last_run_at is None else last_run_at
        self._monotonic_time = trio.current_time()
        self._suspect_until = self._monotonic_time

    def is_suspect(self) -> bool:
        """Reads the clocks; returns True if a jump was so recent that nothing should be deleted for its age."""
        wall_time, monotonic_time = self._clock(), trio.current_time()
        jump = (wall_time - self._wall_time) - (monotonic_time - self._monotonic_time)
        self._wall_time, self._monotonic_time = wall_time, monotonic_time
        if jump > MIN_JUMP_S:
            wait = min(jump * WAIT_FRACTION, DAY_S)
            self._suspect_until = monotonic_time + wait
            log.warning("clock_jumped", days=round(jump / DAY_S, 1), wait_s=round(wait))
        return self.remaining_s > 0

    @property
    def remaining_s(self) -> float:
        """Seconds until the clock is trusted again; 0 if it is."""
        return max(0.0, self._suspect_until - trio.current_time())


async def read_last_event_time(store: Log) -> float | None:
    """Returns the time of the last listed event, or None if there is none or it cannot be read."""
    last = store.last_offset()
    try:
        page = await store.stream_page(StreamFilter(), max(0, last - TAIL_EVENTS), last, TAIL_EVENTS)
        return _timestamp_decoder.decode(page.rows[-1].body).ts if page.rows else None
    except (StorageFailed, BadJson):
        return None  # damage is reported when the event is needed
