"""Whether the time of day is to be believed, where it decides what is thrown away.

A clock that was set wrong is years ahead for some minutes or a night, and all that is kept for ninety days is older
than that then. So when the time has leapt it is waited whether somebody sets it right.
"""

import structlog
import trio
from msgspec import Struct

from walrus_protocol.json import BadJson, Decoder
from walrusd.ports import Clock
from walrusd.store.contract import Log, StorageFailed, StreamFilter

log = structlog.get_logger("walrusd")

DAY_S = 86_400.0
MIN_JUMP_S = DAY_S
"""What is less makes a session go a day too early at most."""
WAIT_FRACTION = 1 / 24
"""Of the leap: after a weekend two hours, and never more than a day. The clock of a machine that was off for so long is
most likely right."""
TAIL_EVENTS = 16
"""Events that are looked at for the last that is listed."""


class _EventTimestamp(Struct):
    ts: float


_timestamp_decoder = Decoder(_EventTimestamp)


class ClockJumpGuard:
    """Holds the time of day against the time that has passed: what is more than that is a leap."""

    def __init__(self, clock: Clock, last_run_at: float | None) -> None:
        """`last`: how late it was when walrusd last ran, None where nobody knows."""
        self._clock = clock
        self._wall_time = clock() if last_run_at is None else last_run_at
        self._monotonic_time = trio.current_time()
        self._suspect_until = self._monotonic_time

    def is_suspect(self) -> bool:
        """Look at the clock; whether there was a leap so lately that nothing should be done for being old."""
        day, passed = self._clock(), trio.current_time()
        leap = (day - self._wall_time) - (passed - self._monotonic_time)
        self._wall_time, self._monotonic_time = day, passed
        if leap > MIN_JUMP_S:
            wait = min(leap * WAIT_FRACTION, DAY_S)
            self._suspect_until = passed + wait
            log.warning("the time of day has leapt", days=round(leap / DAY_S, 1), wait_s=round(wait))
        return self.remaining_s > 0

    @property
    def remaining_s(self) -> float:
        """How long it is still waited."""
        return max(0.0, self._suspect_until - trio.current_time())


async def read_last_event_time(store: Log) -> float | None:
    """When the last event was written, None where there is none that tells."""
    last = store.last_offset()
    try:
        page = await store.stream_page(StreamFilter(), max(0, last - TAIL_EVENTS), last, TAIL_EVENTS)
        return _timestamp_decoder.decode(page.rows[-1].body).ts if page.rows else None
    except (StorageFailed, BadJson):
        return None  # what is damaged there is told to whoever needs it
