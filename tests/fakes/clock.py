"""A wall clock for tests: it advances with trio's clock and can be set."""

import trio


class FakeWallClock:
    """A stand-in for WallClock. With trio's `autojump_clock` a week passes in an instant."""

    def __init__(self, now: float) -> None:
        self._offset = now - trio.current_time()
        self._waiters: set[trio.CancelScope] = set()

    def now(self) -> float:
        # Rounded to the microsecond: trio's clock begins at a large number, and a slot should have a round time.
        return round(trio.current_time() + self._offset, 6)

    async def wait_until(self, when: float) -> None:
        with trio.CancelScope() as scope:
            self._waiters.add(scope)
            try:
                await trio.sleep(max(0.0, when - self.now()))
            finally:
                self._waiters.discard(scope)

    def set(self, now: float) -> None:
        """Sets the clock, and makes every task that waits for a time of day check again."""
        self._offset = now - trio.current_time()
        for scope in self._waiters:
            scope.cancel()
