"""Starts workers: at most one per session, and no more running turns than there are slots."""

import trio

from walrusd.runtime.sessions.idle_cache import IdleCache
from walrusd.runtime.sessions.live_session import AdmittedTurn, LiveSession
from walrusd.runtime.turns.worker import Worker, WorkerContext, mark_suspended


class WorkerPool:
    """The workers of a runtime. They run in the runtime's nursery."""

    def __init__(self, nursery: trio.Nursery, ctx: WorkerContext, idle_cache: IdleCache) -> None:
        self._nursery = nursery
        self._ctx = ctx
        self._idle_cache = idle_cache
        self._slot_count = ctx.slots.value
        self._sessions_with_worker: set[int] = set()
        self._worker_ended = trio.lowlevel.ParkingLot()

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
            return
        if live.has_worker:
            live.next_turn = AdmittedTurn(timeout_s)
            return
        live.has_worker = True
        self._nursery.start_soon(self._run_worker, live, AdmittedTurn(timeout_s), name=f"session {live.id}")

    def ensure_worker(self, live: LiveSession) -> None:
        """Starts a worker if there is work and no worker yet."""
        if not (live.has_worker or live.opening) and (live.inbox or live.session.turn) and not self._ctx.is_stopping():
            live.has_worker = True
            self._nursery.start_soon(self._run_worker, live, None, name=f"session {live.id}")

    async def _run_worker(self, live: LiveSession, admitted: AdmittedTurn | None) -> None:
        self._sessions_with_worker.add(live.id)
        try:
            await Worker(live, self._ctx).run(admitted)
        finally:
            self._sessions_with_worker.discard(live.id)
            live.stream.release_window()
            if live.reply_buffer is None:
                self._ctx.draft_saver.cancel_save(live.id)  # a pending save would keep the session in memory
            self._idle_cache.mark_used(live)
            self._worker_ended.unpark_all()

    async def wait_all_ended(self) -> None:
        """Waits until no worker runs."""
        while self._sessions_with_worker:
            await self._worker_ended.park()
