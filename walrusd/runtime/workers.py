"""Who may work: one worker a session at most, and no more turns at once than there are slots."""

import trio

from walrusd.runtime.kept import Kept
from walrusd.runtime.sessions import LiveSession, Opened
from walrusd.runtime.worker import Worker, Workshop, set_aside


class Workers:
    """Starts workers in the runtime's nursery."""

    def __init__(self, nursery: trio.Nursery, shop: Workshop, kept: Kept) -> None:
        self._nursery = nursery
        self._shop = shop
        self._kept = kept
        self._most = shop.slots.value
        self._running: set[int] = set()
        self._left = trio.lowlevel.ParkingLot()

    @property
    def running(self) -> int:
        """Turns under way; those that wait for a slot are not."""
        return self._most - self._shop.slots.value

    def claim(self, live: LiveSession) -> bool:
        """Whether a turn may begin this instant; then it is the caller's to `start`, or to `unclaim`."""
        if live.busy or self._shop.stopping():
            return False
        try:
            self._shop.slots.acquire_nowait()
        except trio.WouldBlock:
            return False
        live.claimed = True
        return True

    def unclaim(self, live: LiveSession) -> None:
        self._shop.slots.release()
        live.claimed = False
        self.rouse(live)

    def start(self, live: LiveSession, timeout_s: float | None) -> None:
        """Run the turn that the claimer has opened; one opened while the runtime stops waits in the log."""
        live.claimed = False
        if self._shop.stopping():
            set_aside(live)
            return
        if live.working:
            live.handed = Opened(timeout_s)
            return
        live.working = True
        self._nursery.start_soon(self._work, live, Opened(timeout_s), name=f"session {live.id}")

    def rouse(self, live: LiveSession) -> None:
        """See that somebody works where there is work."""
        if not (live.working or live.claimed) and (live.inbox or live.session.turn) and not self._shop.stopping():
            live.working = True
            self._nursery.start_soon(self._work, live, None, name=f"session {live.id}")

    async def _work(self, live: LiveSession, opened: Opened | None) -> None:
        self._running.add(live.id)
        try:
            await Worker(live, self._shop).work(opened)
        finally:
            self._running.discard(live.id)
            live.feed.rest()
            if live.speech is None:
                self._shop.drafts.forget(live.id)  # it would be held until then
            self._kept.touch(live)
            self._left.unpark_all()

    async def all_left(self) -> None:
        """Wait until nobody works."""
        while self._running:
            await self._left.park()
