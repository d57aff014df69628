"""Interrupt and close: end a turn or a session on request."""

from contextlib import suppress
from typing import Literal

from msgspec.structs import replace

from walrus_protocol.events import InterruptRequested, SessionClosed
from walrus_protocol.methods import InterruptResult
from walrusd.runtime.recording.recorder import NO_EXTRAS, PreconditionFailed, TransactionExtras
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.sessions.session_inbox import FORCED_CLOSE
from walrusd.runtime.turns.worker_pool import WorkerPool
from walrusd.store.tables.inbox import Dequeue, Enqueue, InboxEntry


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
        live.admission.interrupt_worker()

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
    handle = live.handles.join_open_turn()
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
        already_accepted = live.inbox.has_forced_close if force else live.inbox.has_close
        if already_accepted or live.session.state.state == "closed":
            return False
        if live.is_busy:
            await _enqueue_close(live, worker_pool, force=force, by=by)
        else:
            await _close_now(live, worker_pool, by=by)
    if force:
        await _wait_closed(live)
    return True


async def _wait_closed(live: LiveSession) -> None:
    """Waits until the session is closed.

    Raises Problem if the store cannot record the end of the running turn.
    """
    while live.session.state.state != "closed":
        if live.session.turn:
            await live.handles.join_open_turn().wait_result()
        else:
            await live.stream.wait_next_event()


async def _close_now(live: LiveSession, worker_pool: WorkerPool, *, by: str) -> None:
    live.admission.begin_opening()
    try:
        await live.recorder.record(SessionClosed(by=by))
    finally:
        worker_pool.end_opening(live)


async def _enqueue_close(live: LiveSession, worker_pool: WorkerPool, *, force: bool, by: str) -> None:
    earlier = (Dequeue(entry.place) for entry in live.inbox.entries if entry.kind == "close")
    close_entry = InboxEntry(
        place=live.inbox.next_place(), kind="close", content=FORCED_CLOSE if force else "", sender=by
    )

    def on_queued() -> None:
        if force:
            live.admission.cancel_slot_wait()
        live.admission.retry_store()
        worker_pool.ensure_worker(live)

    extras = TransactionExtras(
        mutations=(Enqueue(close_entry), *earlier), on_applied=on_queued, precondition=lambda now: now.state != "closed"
    )
    with suppress(PreconditionFailed):  # an earlier close has just closed the session
        if not (force and await request_interrupt(live, by=by, reason="close", extras=extras)):
            await live.recorder.record(extras=extras)
