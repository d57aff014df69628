"""The time of day as the machine has it: a wait ends then, and one that is given up leaves nothing open."""

import os
import time

import trio

from walrusd.host.clock import SystemClock


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_a_wait_ends_when_it_is_that_time_of_day() -> None:
    clock = SystemClock()
    when = clock.now() + 0.02
    with trio.fail_after(10):
        while clock.now() < when:
            await clock.wait_until(when)
    assert clock.now() >= when
    assert abs(clock.now() - time.time()) < 10, "it is the time that everybody has"


async def test_a_time_that_has_passed_is_not_waited_for() -> None:
    clock = SystemClock()
    with trio.fail_after(10):
        for when in (clock.now() - 1, 0.0, -5.0):
            await clock.wait_until(when)


async def test_waits_that_are_given_up_leave_no_descriptor() -> None:
    clock = SystemClock()
    before = open_descriptors()
    for years in (1, 1000):
        with trio.move_on_after(0.001) as waited:
            await clock.wait_until(clock.now() + years * 31_536_000)
        assert waited.cancelled_caught
    assert open_descriptors() == before
