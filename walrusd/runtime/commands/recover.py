"""Recovery at the start: turns that an earlier process left open are continued or ended, and queued ones started."""

import contextlib

import structlog

from walrus_protocol.problems import Problem
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.runtime.turns.worker_pool import WorkerPool
from walrusd.session.recovery import OnRestart, choose_recovery_action
from walrusd.store.contract import Log
from walrusd.store.tables.session import read_unfinished_sessions

logger = structlog.get_logger("walrusd.runtime")


async def recover_sessions(
    log: Log, session_cache: SessionCache, worker_pool: WorkerPool, on_restart: OnRestart
) -> None:
    """Starts the workers of all unfinished sessions.

    Turns that are not continued have ended on return, unless the store cannot record their end now.
    """
    found, ending = [], []
    async with contextlib.AsyncExitStack() as leases:
        for number in await log.read(read_unfinished_sessions):
            try:
                found.append(await leases.enter_async_context(session_cache.lease(number)))
            except Problem as unreadable:
                logger.error("session_skipped", session=number, error=unreadable.message, hint=unreadable.hint)
        # No turn runs before all sessions are loaded: loading beside running turns would take as long as they do.
        for live in found:
            turn = live.session.turn
            if turn and choose_recovery_action(turn, live.draft, on_restart) != "continue":
                ending.append(live.handles.join_open_turn())
            worker_pool.ensure_worker(live)
    for handle in ending:
        with contextlib.suppress(Problem):  # the store cannot record the end now: the worker retries
            await handle.wait_result()
