"""Starts workers: at most one per session, and no more running turns than there are slots."""

from collections.abc import Callable

import trio

from walrusd.runtime.sessions.live_session import AdmittedTurn, LiveSession
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
        if live.is_busy or self._ctx.is_stopping():
            return False
        try:
            self._ctx.slots.acquire_nowait()
        except trio.WouldBlock:
            return False
        live.opening = True
        return True

    def cancel_opening(self, live: LiveSession) -> None:
        """Gives the slot back, because no turn was opened."""
        self._ctx.slots.release()
        live.opening = False
        self.ensure_worker(live)

    def start_turn(self, live: LiveSession, timeout_s: float | None) -> None:
        """Runs the turn that the caller has opened; if the runtime is stopping, the turn is suspended instead."""
        live.opening = False
        if self._ctx.is_stopping():
            mark_suspended(live)
            self._lease_until_stopped(live)
            return
        if live.has_worker:
            live.next_turn = AdmittedTurn(timeout_s)
            return
        self._start_worker(live, AdmittedTurn(timeout_s))

    def ensure_worker(self, live: LiveSession) -> None:
        """Starts a worker if there is work and no worker yet."""
        if live.has_worker or live.opening or not (live.inbox or live.session.turn):
            return
        if self._ctx.is_stopping():
            self._lease_until_stopped(live)
        else:
            self._start_worker(live, None)

    def _start_worker(self, live: LiveSession, admitted: AdmittedTurn | None) -> None:
        live.has_worker = True
        end_lease = self._session_cache.extend_lease(live)
        self._nursery.start_soon(self._run_worker, live, admitted, end_lease, name=f"session {live.id}")

    async def _run_worker(
        self, live: LiveSession, admitted: AdmittedTurn | None, end_lease: Callable[[], None]
    ) -> None:
        self._sessions_with_worker.add(live.id)
        try:
            await Worker(live, self._ctx).run(admitted)
        finally:
            self._sessions_with_worker.discard(live.id)
            live.stream.release_window()
            self._ctx.draft_saver.cancel_save(live.id)
            if self._ctx.is_stopping():
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
