"""The time of day, and a wait for it that needs no polling: it wakes when the clock is set, and after a suspend."""

import ctypes
import math
import os
import time

import trio

_TFD_CLOEXEC, _TFD_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    async def wait_until(self, when: float) -> None:
        """Wait for that time of day; return early, too, where the clock was set meanwhile: look at `now` again."""
        timer = _open_timerfd(when)
        try:
            await trio.lowlevel.wait_readable(timer)
        finally:
            os.close(timer)


def _open_timerfd(when: float) -> int:
    """A descriptor that can be read at that time, or once the clock has been set: a timerfd, which Python 3.11 lacks.

    trio's own clock is monotonic: it stands still in a suspend, and knows nothing of what is set.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timer: int = libc.timerfd_create(time.CLOCK_REALTIME, _TFD_CLOEXEC | _TFD_NONBLOCK)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    fraction, seconds = math.modf(max(when, 1e-3))  # 0 would disarm it
    # Rounded up: a wait that ends before its time would only begin anew.
    spec = _Itimerspec(value=_Timespec(int(seconds), min(math.ceil(fraction * 1e9), 999_999_999)))
    if libc.timerfd_settime(timer, _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET, ctypes.byref(spec), None) != 0:
        failed = ctypes.get_errno()
        os.close(timer)
        raise OSError(failed, "timerfd_settime")
    return timer
