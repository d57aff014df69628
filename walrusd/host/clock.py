"""The wall clock, with a wait without polling that wakes when the clock is set and after a suspend."""

import math
import os
import time
from struct import Struct as Layout

import trio

from walrusd.host.libc import call_libc

_TFD_CLOEXEC, _TFD_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_itimerspec = Layout("4l")
"""Seconds and nanoseconds of the interval, then those of the first expiry."""


class SystemClock:
    """The wall clock of the machine."""

    def now(self) -> float:
        """Returns the current time in Unix seconds."""
        return time.time()

    async def wait_until(self, when: float) -> None:
        """Waits until the wall clock shows `when`.

        Returns early if the clock is set meanwhile: check `now` again. Raises OSError if no timer can be opened.
        """
        timer = _open_timerfd(when)
        try:
            await trio.lowlevel.wait_readable(timer)
        finally:
            os.close(timer)


def _open_timerfd(when: float) -> int:
    """Opens a timerfd, which becomes readable at `when` or as soon as the clock is set.

    Python 3.11 has no timerfd of its own. trio's clock is monotonic: it does not advance during a suspend, and it does
    not notice that the clock is set.
    """
    timer = call_libc("timerfd_create", time.CLOCK_REALTIME, _TFD_CLOEXEC | _TFD_NONBLOCK)
    fraction, seconds = math.modf(max(when, 1e-3))  # 0 would disarm the timer
    # Rounded up: a wait that ended too early would only start again.
    spec = _itimerspec.pack(0, 0, int(seconds), min(math.ceil(fraction * 1e9), 999_999_999))
    try:
        call_libc("timerfd_settime", timer, _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET, spec, None)
    except OSError:
        os.close(timer)
        raise
    return timer
