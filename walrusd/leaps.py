"""Whether the time of day is to be believed, where it decides what is thrown away.

A clock that was set wrong is years ahead for some minutes or a night, and all that is kept for ninety days is older
than that then. So when the time has leapt it is waited whether somebody sets it right.
"""

import structlog
import trio
from msgspec import Struct

from walrus_protocol.json import BadJson, Decoder
from walrusd.ports import Clock
from walrusd.store.log import Log, StorageFailed, Wanted

log = structlog.get_logger("walrusd")

DAY_S = 86_400.0
LEAP_S = DAY_S
"""What is less makes a session go a day too early at most."""
PATIENCE = 1 / 24
"""Of the leap: after a weekend two hours, and never more than a day. The clock of a machine that was off for so long is
most likely right."""
LAST = 16
"""Events that are looked at for the last that is listed."""


class _Written(Struct):
    ts: float


_written = Decoder(_Written)


class Leaps:
    """Holds the time of day against the time that has passed: what is more than that is a leap."""

    def __init__(self, clock: Clock, last: float | None) -> None:
        """`last`: how late it was when walrusd last ran, None where nobody knows."""
        self._clock = clock
        self._day = clock() if last is None else last
        self._passed = trio.current_time()
        self._until = self._passed

    def waits(self) -> bool:
        """Look at the clock; whether there was a leap so lately that nothing should be done for being old."""
        day, passed = self._clock(), trio.current_time()
        leap = (day - self._day) - (passed - self._passed)
        self._day, self._passed = day, passed
        if leap > LEAP_S:
            wait = min(leap * PATIENCE, DAY_S)
            self._until = passed + wait
            log.warning("the time of day has leapt", days=round(leap / DAY_S, 1), wait_s=round(wait))
        return self.left_s > 0

    @property
    def left_s(self) -> float:
        """How long it is still waited."""
        return max(0.0, self._until - trio.current_time())


async def last_written(store: Log) -> float | None:
    """When the last event was written, None where there is none that tells."""
    last = store.last_offset()
    try:
        page = await store.stream(Wanted(), max(0, last - LAST), last, LAST)
        return _written.decode(page.rows[-1].body).ts if page.rows else None
    except (StorageFailed, BadJson):
        return None  # what is damaged there is told to whoever needs it
