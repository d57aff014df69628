"""How a turn or a session is ended from outside: interrupt and close."""

from contextlib import suppress
from typing import Literal

from msgspec.structs import replace

from walrus_protocol.events import InterruptRequested, SessionClosed
from walrus_protocol.methods import Interrupted
from walrusd.runtime.record import NOTHING, Beside, Overtaken
from walrusd.runtime.sessions import FORCE, LiveSession
from walrusd.runtime.workers import Workers
from walrusd.store.log import Queued


async def request_interrupt(
    live: LiveSession, *, by: str, reason: Literal["user", "close"] = "user", beside: Beside = NOTHING
) -> bool:
    """Record that the open turn is to stop, and cut it off; one that is just being opened too.

    False, with nothing written, when it ends before that.
    """
    outline = live.session.outline

    def cut() -> None:
        if beside.applied:
            beside.applied()
        if live.scope:
            live.scope.cancel()
        if live.parked:
            live.parked.cancel()  # one that was to go on after a restart needs no slot to end
        live.poke.set()  # one that is suspended can be ended now: this was written

    number = outline.turn.number if outline.turn else outline.turns + 1
    try:
        await live.recorder.record(
            InterruptRequested(by=by, reason=reason),
            beside=replace(beside, only_if=lambda now: now.turn is not None and now.turn.number == number, applied=cut),
        )
    except Overtaken:
        return False
    return True


async def interrupt(live: LiveSession, *, by: str) -> Interrupted:
    """Stop the running turn, if there is one; its `done` is durable when this returns."""
    turn = live.session.turn
    if turn is None:
        return Interrupted(interrupted=False)
    ticket = live.wait_for_turn()
    if not await request_interrupt(live, by=by):
        return Interrupted(interrupted=False)
    await ticket.outcome()
    return Interrupted(interrupted=True, turn=turn.number)


async def close(live: LiveSession, workers: Workers, *, force: bool, by: str) -> bool:
    """Accept no more messages; the running and the queued turns finish first, or are cut off by `force`.

    True once that is durable, and with `force` once the session is closed. False where it was closed before.
    """
    async with live.close_door:
        if live.closing and (not force or live.forced or live.session.outline.state == "closed"):
            return False
        live.close_entering = True
        try:
            if live.busy:
                await _close_after_all(live, workers, force=force, by=by)
            else:
                await _close_now(live, workers, by=by)
        finally:
            live.close_entering = False
    if force:
        await _closed(live)
    return True


async def _closed(live: LiveSession) -> None:
    """Wait for the end. Raises Problem where the store keeps the running turn from it."""
    while live.session.outline.state != "closed":
        if live.session.turn:
            await live.wait_for_turn().outcome()
        else:
            await live.feed.change()


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

    def enter() -> None:
        if force and live.parked:
            live.parked.cancel()  # a turn that is not to be run needs no slot
        live.poke.set()
        workers.rouse(live)

    beside = Beside(enqueue=(entry,), dequeue=earlier, applied=enter, only_if=lambda now: now.state != "closed")
    with suppress(Overtaken):  # the close before this one has just come to its end
        if not (force and await request_interrupt(live, by=by, reason="close", beside=beside)):
            await live.recorder.record(beside=beside)
