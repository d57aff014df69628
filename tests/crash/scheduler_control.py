"""What makes a life go the same way each time: everybody waits for his cue, and no time passes but when told."""

import trio
import trio.testing

from tests.crash.kill_points import KillPoints
from walrusd.runtime.turns.drafts import SAVE_INTERVAL_S

SYNC_POINTS = ("more", "hurry")
"""What is said while a turn runs."""


class SchedulerControl:
    """Of one life. While it is held, models and tools wait before they begin."""

    def __init__(self, kill_points: KillPoints) -> None:
        self.kill_points = kill_points
        self.actor_waiting = trio.Event()
        """Somebody waits for the stage to go on."""
        self._released = trio.Event()
        self._released.set()
        self._sync_points = {name: trio.Event() for name in SYNC_POINTS}
        self._acknowledged = {name: trio.Event() for name in SYNC_POINTS}
        self._unacknowledged = 0

    def hold(self) -> None:
        """From now on nobody waits to be given a cue: what is to be said is said while the others are held."""
        if self._released.is_set():
            self.actor_waiting, self._released = trio.Event(), trio.Event()
        if self._unacknowledged:
            self.actor_waiting.set()
        for cue in self._sync_points.values():
            cue.set()

    def release(self) -> None:
        if self._released.is_set():
            return
        self._released.set()
        for answered in self._acknowledged.values():
            answered.set()

    async def wait_released(self) -> None:
        if not self._released.is_set():
            self.actor_waiting.set()
            await self._released.wait()

    async def reach_sync_point(self, name: str) -> None:
        """Wait until it is answered."""
        self._sync_points[name].set()
        self._unacknowledged += 1
        try:
            await self._acknowledged[name].wait()
        finally:
            self._unacknowledged -= 1

    async def wait_for_sync_point(self, name: str, unless: trio.Event) -> None:
        """Wait until it is given, or is not to be expected any more."""
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
