"""Interrupt and close: end a turn or a session on request."""

from contextlib import suppress
from typing import Literal

from msgspec.structs import replace

from walrus_protocol.events import InterruptRequested, SessionClosed
from walrus_protocol.methods import InterruptResult
from walrusd.runtime.recording.recorder import NO_EXTRAS, PreconditionFailed, TransactionExtras
from walrusd.runtime.sessions.live_session import FORCED_CLOSE, LiveSession
from walrusd.runtime.turns.worker_pool import WorkerPool
from walrusd.store.contract import InboxEntry


async def request_interrupt(
    live: LiveSession, *, by: str, reason: Literal["user", "close"] = "user", extras: TransactionExtras = NO_EXTRAS
) -> bool:
    """Records an interrupt of the open turn, or of one that is just being opened, and cancels the turn.

    Returns False, with nothing written, if the turn ends before that.
    """
    state = live.session.state

    def cancel_turn() -> None:
        if extras.on_applied:
            extras.on_applied()
        if live.turn_scope:
            live.turn_scope.cancel()
        if live.slot_wait:
            live.slot_wait.cancel()  # a turn to be resumed after a restart needs no slot to end
        live.retry_now.set()  # a suspended turn can end now: the store can write

    number = state.turn.number if state.turn else state.turns + 1
    try:
        await live.recorder.record(
            InterruptRequested(by=by, reason=reason),
            extras=replace(
                extras,
                precondition=lambda now: now.turn is not None and now.turn.number == number,
                on_applied=cancel_turn,
            ),
        )
    except PreconditionFailed:
        return False
    return True


async def interrupt(live: LiveSession, *, by: str) -> InterruptResult:
    """Interrupts the running turn, if there is one; its `done` is durable on return."""
    turn = live.session.turn
    if turn is None:
        return InterruptResult(interrupted=False)
    handle = live.create_turn_handle()
    if not await request_interrupt(live, by=by):
        return InterruptResult(interrupted=False)
    await handle.wait_result()
    return InterruptResult(interrupted=True, turn=turn.number)


async def close(live: LiveSession, worker_pool: WorkerPool, *, force: bool, by: str) -> bool:
    """Accepts no more messages, and closes the session after its turns; `force` interrupts these.

    Returns True when the request is durable, and with `force` when the session is closed. Returns False if a close was
    accepted before, unless that one is still queued and only this one is forced.
    """
    async with live.close_lock:
        if live.is_closing and (not force or live.has_forced_close or live.session.state.state == "closed"):
            return False
        live.accepting_close = True
        try:
            if live.is_busy:
                await _enqueue_close(live, worker_pool, force=force, by=by)
            else:
                await _close_now(live, worker_pool, by=by)
        finally:
            live.accepting_close = False
    if force:
        await _wait_closed(live)
    return True


async def _wait_closed(live: LiveSession) -> None:
    """Waits until the session is closed.

    Raises Problem if the store cannot record the end of the running turn.
    """
    while live.session.state.state != "closed":
        if live.session.turn:
            await live.create_turn_handle().wait_result()
        else:
            await live.stream.wait_next_event()


async def _close_now(live: LiveSession, worker_pool: WorkerPool, *, by: str) -> None:
    live.opening = True
    try:
        await live.recorder.record(SessionClosed(by=by))
    finally:
        live.opening = False
        worker_pool.ensure_worker(live)


async def _enqueue_close(live: LiveSession, worker_pool: WorkerPool, *, force: bool, by: str) -> None:
    earlier = tuple(entry.place for entry in live.inbox if entry.kind == "close")
    close_entry = InboxEntry(place=live.next_place(), kind="close", content=FORCED_CLOSE if force else "", sender=by)

    def on_queued() -> None:
        if force and live.slot_wait:
            live.slot_wait.cancel()  # a turn that is not to run needs no slot
        live.retry_now.set()
        worker_pool.ensure_worker(live)

    extras = TransactionExtras(
        enqueue=(close_entry,), dequeue=earlier, on_applied=on_queued, precondition=lambda now: now.state != "closed"
    )
    with suppress(PreconditionFailed):  # an earlier close has just closed the session
        if not (force and await request_interrupt(live, by=by, reason="close", extras=extras)):
            await live.recorder.record(extras=extras)
