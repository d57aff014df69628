"""What makes a life go the same way each time: everybody waits for his cue, and no time passes but when told."""

import trio
import trio.testing

from tests.crash.boundaries import Boundaries
from walrusd.runtime.drafts import INTERVAL

CUES = ("more", "hurry")
"""What is said while a turn runs."""


class Stage:
    """Of one life. While it is held, models and tools wait before they begin."""

    def __init__(self, boundaries: Boundaries) -> None:
        self.boundaries = boundaries
        self.held = trio.Event()
        """Somebody waits for the stage to go on."""
        self._goes_on = trio.Event()
        self._goes_on.set()
        self._cues = {name: trio.Event() for name in CUES}
        self._answered = {name: trio.Event() for name in CUES}
        self._unanswered = 0

    def hold(self) -> None:
        """From now on nobody waits to be given a cue: what is to be said is said while the others are held."""
        if self._goes_on.is_set():
            self.held, self._goes_on = trio.Event(), trio.Event()
        if self._unanswered:
            self.held.set()
        for cue in self._cues.values():
            cue.set()

    def go_on(self) -> None:
        if self._goes_on.is_set():
            return
        self._goes_on.set()
        for answered in self._answered.values():
            answered.set()

    async def enter(self) -> None:
        if not self._goes_on.is_set():
            self.held.set()
            await self._goes_on.wait()

    async def give_cue(self, name: str) -> None:
        """Wait until it is answered."""
        self._cues[name].set()
        self._unanswered += 1
        try:
            await self._answered[name].wait()
        finally:
            self._unanswered -= 1

    async def cue(self, name: str, or_else: trio.Event) -> None:
        """Wait until it is given, or is not to be expected any more."""
        await first_of(self._cues[name], or_else)

    def answer(self, name: str) -> None:
        if name in self._answered and self._goes_on.is_set():
            self._answered[name].set()


async def first_of(*events: trio.Event) -> None:
    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(wait, event)


async def let_a_draft_be_due() -> None:
    await trio.testing.wait_all_tasks_blocked()
    jump(INTERVAL)


def jump(seconds: float) -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)
