"""Starts workers: at most one per session, and no more running turns than there are slots."""

from collections.abc import Callable

import trio

from walrusd.runtime.sessions.admission import AdmittedTurn
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.runtime.turns.worker import Worker, WorkerContext, mark_suspended


class WorkerPool:
    """The workers of a runtime. They run in the runtime's nursery."""

    def __init__(self, nursery: trio.Nursery, ctx: WorkerContext, session_cache: SessionCache) -> None:
        self._nursery = nursery
        self._ctx = ctx
        self._session_cache = session_cache
        self._slot_count = ctx.slots.value
        self._sessions_with_worker: set[int] = set()
        self._worker_ended = trio.lowlevel.ParkingLot()
        self._is_stopped = False
        self._leases_until_stop: list[Callable[[], None]] = []
        """What ends the leases of the sessions that have work left for the next start."""

    @property
    def running_turns(self) -> int:
        """Number of running turns, without those that wait for a slot."""
        return self._slot_count - self._ctx.slots.value

    def try_begin_opening(self, live: LiveSession) -> bool:
        """Takes a slot if a turn may begin right now.

        After True, the caller must call `start_turn` or `cancel_opening`.
        """
        if live.is_busy or self._ctx.stopping:
            return False
        try:
            self._ctx.slots.acquire_nowait()
        except trio.WouldBlock:
            return False
        live.admission.begin_opening()
        return True

    def cancel_opening(self, live: LiveSession) -> None:
        """Gives the slot back, because no turn was opened."""
        self._ctx.slots.release()
        self.end_opening(live)

    def end_opening(self, live: LiveSession) -> None:
        """Lets the next turn be opened, after a request that did not open one."""
        live.admission.cancel_opening()
        self.ensure_worker(live)

    def start_turn(self, live: LiveSession, timeout_s: float | None) -> None:
        """Runs the turn that the caller has opened; if the runtime is stopping, the turn is suspended instead."""
        if self._ctx.stopping:
            live.admission.cancel_opening()
            mark_suspended(live)
            self._lease_until_stopped(live)
        elif live.admission.hand_over(AdmittedTurn(timeout_s)):
            self._spawn_worker(live)

    def ensure_worker(self, live: LiveSession) -> None:
        """Starts a worker if there is work and no worker yet."""
        if live.admission.state != "idle" or not (live.inbox.entries or live.session.turn):
            return
        if self._ctx.stopping:
            self._lease_until_stopped(live)
        else:
            live.admission.start_worker()
            self._spawn_worker(live)

    def _spawn_worker(self, live: LiveSession) -> None:
        end_lease = self._session_cache.extend_lease(live)
        self._nursery.start_soon(self._run_worker, live, end_lease, name=f"session {live.id}")

    async def _run_worker(self, live: LiveSession, end_lease: Callable[[], None]) -> None:
        self._sessions_with_worker.add(live.id)
        try:
            await Worker(live, self._ctx).run()
        finally:
            self._sessions_with_worker.discard(live.id)
            live.stream.release_window()
            self._ctx.draft_saver.cancel_save(live.id)
            if self._ctx.stopping:
                self._lease_until_stopped(live)
            end_lease()
            self._worker_ended.unpark_all()

    def _lease_until_stopped(self, live: LiveSession) -> None:
        """Keeps a session with work left in memory until the runtime has stopped, and has failed its handles."""
        if not self._is_stopped:
            self._leases_until_stop.append(self._session_cache.extend_lease(live))

    def mark_stopped(self) -> None:
        """Ends the leases of the sessions that have work left for the next start."""
        self._is_stopped = True
        while self._leases_until_stop:
            self._leases_until_stop.pop()()

    async def wait_all_ended(self) -> None:
        """Waits until no worker runs."""
        while self._sessions_with_worker:
            await self._worker_ended.park()
