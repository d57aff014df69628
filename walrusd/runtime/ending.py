"""How a turn or a session is ended from outside: interrupt and close."""

from walrus_protocol.events import InterruptRequested, SessionClosed
from walrus_protocol.methods import Interrupted
from walrusd.runtime.record import Beside
from walrusd.runtime.sessions import FORCE, LiveSession
from walrusd.runtime.workers import Workers
from walrusd.session.states import Refused
from walrusd.store.log import Queued


async def request_interrupt(live: LiveSession, turn: int, *, by: str) -> bool:
    """Record that `turn` is to stop, and cut it off; False when it had ended before that."""

    def cut() -> None:
        if live.scope:
            live.scope.cancel()

    try:
        await live.recorder.record(InterruptRequested(by=by), beside=Beside(turn=turn, applied=cut))
    except Refused:
        return False
    return True


async def interrupt(live: LiveSession, *, by: str) -> Interrupted:
    """Stop the running turn, if there is one; its `done` is durable when this returns."""
    turn = live.session.turn
    if turn is None:
        return Interrupted(interrupted=False)
    ticket = live.wait_for_turn()
    if not await request_interrupt(live, turn.number, by=by):
        return Interrupted(interrupted=False)
    await ticket.outcome()
    return Interrupted(interrupted=True, turn=turn.number)


async def close(live: LiveSession, workers: Workers, *, force: bool, by: str) -> bool:
    """Accept no more messages; the running and the queued turns finish first, or are cut off by `force`.

    True once that is durable, and with `force` once the session is closed. False where it was closed before.
    """
    if live.closing and not (force and live.session.outline.state != "closed" and not live.forced):
        return False
    live.close_entering = True
    try:
        if live.busy:
            await _close_after_all(live, workers, force=force, by=by)
        else:
            await _close_now(live, workers, by=by)
    finally:
        live.close_entering = False
    return True


async def _close_now(live: LiveSession, workers: Workers, *, by: str) -> None:
    live.claimed = True
    try:
        await live.recorder.record(SessionClosed(by=by))
    finally:
        live.claimed = False
        workers.rouse(live)


async def _close_after_all(live: LiveSession, workers: Workers, *, force: bool, by: str) -> None:
    earlier = tuple(queued.place for queued in live.inbox if queued.kind == "close")
    entry = Queued(place=live.place(), kind="close", content=FORCE if force else "", sender=by)
    beside = Beside(enqueue=(entry,), dequeue=earlier, applied=lambda: workers.rouse(live))
    await live.recorder.record(beside=beside)
    if not force:
        return
    if turn := live.session.turn:
        await request_interrupt(live, turn.number, by=by)
    while live.session.outline.state != "closed":
        await live.feed.change()
