"""Makes each run reach its kill points in the same order.

Actors wait at sync points, and the clock is mocked.
"""

import trio
import trio.testing

from tests.crash.kill_points import KillPoints
from walrusd.runtime.turns.drafts import SAVE_INTERVAL_S

SYNC_POINTS = ("more", "hurry")
"""Messages that the client sends while a turn runs; each has a sync point of the same name."""


class SchedulerControl:
    """The control of one run. While it is held, models and tools wait before they begin."""

    def __init__(self, kill_points: KillPoints) -> None:
        self.kill_points = kill_points
        self.actor_waiting = trio.Event()
        """Set while a model or tool waits for `release`."""
        self._released = trio.Event()
        self._released.set()
        self._sync_points = {name: trio.Event() for name in SYNC_POINTS}
        self._acknowledged = {name: trio.Event() for name in SYNC_POINTS}
        self._unacknowledged = 0

    def hold(self) -> None:
        """Holds models and tools from now on, and opens all sync points.

        The client can then send its messages.
        """
        if self._released.is_set():
            self.actor_waiting, self._released = trio.Event(), trio.Event()
        if self._unacknowledged:
            self.actor_waiting.set()
        for reached in self._sync_points.values():
            reached.set()

    def release(self) -> None:
        if self._released.is_set():
            return
        self._released.set()
        for acknowledged in self._acknowledged.values():
            acknowledged.set()

    async def wait_released(self) -> None:
        if not self._released.is_set():
            self.actor_waiting.set()
            await self._released.wait()

    async def reach_sync_point(self, name: str) -> None:
        """Reaches the sync point, and waits until its message is acknowledged."""
        self._sync_points[name].set()
        self._unacknowledged += 1
        try:
            await self._acknowledged[name].wait()
        finally:
            self._unacknowledged -= 1

    async def wait_for_sync_point(self, name: str, unless: trio.Event) -> None:
        """Waits until the sync point is reached, or `unless` is set."""
        await wait_for_any(self._sync_points[name], unless)

    def acknowledge(self, name: str) -> None:
        if name in self._acknowledged and self._released.is_set():
            self._acknowledged[name].set()


async def wait_for_any(*events: trio.Event) -> None:
    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(wait, event)


async def make_draft_due() -> None:
    await trio.testing.wait_all_tasks_blocked()
    advance_clock(SAVE_INTERVAL_S)


def advance_clock(seconds: float) -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)
