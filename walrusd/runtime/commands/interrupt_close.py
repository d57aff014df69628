"""How a turn or a session is ended from outside: interrupt and close."""

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
    """Record that the open turn is to stop, and cut it off; one that is just being opened too.

    False, with nothing written, when it ends before that.
    """
    outline = live.session.state

    def cut() -> None:
        if extras.on_applied:
            extras.on_applied()
        if live.turn_scope:
            live.turn_scope.cancel()
        if live.slot_wait:
            live.slot_wait.cancel()  # one that was to go on after a restart needs no slot to end
        live.retry_now.set()  # one that is suspended can be ended now: this was written

    number = outline.turn.number if outline.turn else outline.turns + 1
    try:
        await live.recorder.record(
            InterruptRequested(by=by, reason=reason),
            extras=replace(
                extras, precondition=lambda now: now.turn is not None and now.turn.number == number, on_applied=cut
            ),
        )
    except PreconditionFailed:
        return False
    return True


async def interrupt(live: LiveSession, *, by: str) -> InterruptResult:
    """Stop the running turn, if there is one; its `done` is durable when this returns."""
    turn = live.session.turn
    if turn is None:
        return InterruptResult(interrupted=False)
    ticket = live.create_turn_handle()
    if not await request_interrupt(live, by=by):
        return InterruptResult(interrupted=False)
    await ticket.wait_result()
    return InterruptResult(interrupted=True, turn=turn.number)


async def close(live: LiveSession, worker_pool: WorkerPool, *, force: bool, by: str) -> bool:
    """Accept no more messages; the running and the queued turns finish first, or are cut off by `force`.

    True once that is durable, and with `force` once the session is closed. False where it was closed before.
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
    """Wait for the end. Raises Problem where the store keeps the running turn from it."""
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
    earlier = tuple(queued.place for queued in live.inbox if queued.kind == "close")
    entry = InboxEntry(place=live.next_place(), kind="close", content=FORCED_CLOSE if force else "", sender=by)

    def enter() -> None:
        if force and live.slot_wait:
            live.slot_wait.cancel()  # a turn that is not to be run needs no slot
        live.retry_now.set()
        worker_pool.ensure_worker(live)

    beside = TransactionExtras(
        enqueue=(entry,), dequeue=earlier, on_applied=enter, precondition=lambda now: now.state != "closed"
    )
    with suppress(PreconditionFailed):  # the close before this one has just come to its end
        if not (force and await request_interrupt(live, by=by, reason="close", extras=beside)):
            await live.recorder.record(extras=beside)
