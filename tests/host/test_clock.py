"""Tests of SystemClock: a wait ends at its time, and a cancelled wait leaves no descriptor open."""

import os
import time

import trio

from walrusd.host.clock import SystemClock


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_a_wait_ends_at_its_time() -> None:
    clock = SystemClock()
    when = clock.now() + 0.02
    with trio.fail_after(10):
        while clock.now() < when:
            await clock.wait_until(when)
    assert clock.now() >= when
    assert abs(clock.now() - time.time()) < 10, "now() is the system's time"


async def test_a_wait_for_a_past_time_returns_at_once() -> None:
    clock = SystemClock()
    with trio.fail_after(10):
        for when in (clock.now() - 1, 0.0, -5.0):
            await clock.wait_until(when)


async def test_cancelled_waits_leave_no_descriptor_open() -> None:
    clock = SystemClock()
    before = open_descriptors()
    for years in (1, 1000):
        with trio.move_on_after(0.001) as scope:
            await clock.wait_until(clock.now() + years * 31_536_000)
        assert scope.cancelled_caught
    assert open_descriptors() == before
