"""How a message comes in: its turn begins at once, or it is committed to the session's inbox. Either is acceptance."""

import hashlib
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from walrus_protocol.content import Content, MessageKind, WhenBusy
from walrus_protocol.events import Done, MessageQueued, UserMessage, decode_row
from walrus_protocol.problems import Problem
from walrus_protocol.wire import MAX_MESSAGE
from walrusd.runtime.ending import request_interrupt
from walrusd.runtime.record import Beside
from walrusd.runtime.sessions import LiveSession
from walrusd.runtime.tickets import Ticket, result_of
from walrusd.runtime.workers import Workers
from walrusd.store.log import Queued, Sent

INBOX = 64
"""Messages that may wait for one session: a person or a script that is further ahead than this should be told."""
RETRY_AFTER_MS = 1000


class Incoming(Struct, frozen=True, kw_only=True):
    """A message on its way in."""

    content: Content
    sender: str = ""
    key: str | None = None
    when_busy: WhenBusy = "queue"
    timeout_s: float | None = None
    kind: MessageKind = "message"


def digest_of(content: Content) -> bytes:
    """By which a repeated key is told from a reused one. Raises Problem for a message that is too large."""
    encoded = msgspec.json.encode(content)
    if len(encoded) > MAX_MESSAGE:
        raise Problem(
            "invalid_params",
            f"the message is {len(encoded):,} bytes of JSON; at most {MAX_MESSAGE:,} are taken",
            "Put what is large in a file of the agent's workspace and name it.",
        )
    return hashlib.sha256(encoded).digest()


Prepare = Callable[[], Awaitable[Incoming]]
"""The message as it is to be recorded. Raises Problem where it cannot be answered."""


async def accept(live: LiveSession, message: Incoming, prepare: Prepare, workers: Workers) -> Ticket:
    """A ticket for the turn that `message` becomes; it is durable when this returns.

    Raises Problem (session_closed, session_busy, inbox_full, key_reused) and StorageFailed.
    """
    digest = digest_of(message.content)  # of what was sent: a hook need not say the same twice
    if message.key is None:
        ticket = Ticket(live.id)
        await _admit(live, await prepare(), ticket, workers)
        return ticket
    return await _accept_once(live, message.key, digest, prepare, workers)


async def _accept_once(live: LiveSession, key: str, digest: bytes, prepare: Prepare, workers: Workers) -> Ticket:
    """The first send with a key is admitted; a later one shares its ticket, or gets its result from the log."""
    while twin := live.keyed.get(key):
        await twin.accepted.wait()  # owner: the first sender
        if twin.turn or twin.position:
            _same(twin.digest, digest, key)
            return twin
        # The first was refused, or has gone, and has used up no key: this one is as good.
    ticket = live.keyed[key] = Ticket(live.id, digest)
    try:
        if not await _repeats(live, key, ticket):
            await _admit(live, await prepare(), ticket, workers)
    except BaseException:
        del live.keyed[key]
        ticket.accepted.set()
        raise
    live.forget_settled_keys()
    return ticket


def _same(known: bytes, digest: bytes, key: str) -> None:
    if known != digest:
        raise Problem(
            "key_reused",
            f"key {key!r} was used for another message",
            "Use a key for one message, and a new one for the next.",
        )


async def _repeats(live: LiveSession, key: str, ticket: Ticket) -> bool:
    """Whether the key was used before; then the ticket is that turn's."""
    log = live.shared.log
    sent = await log.sent(live.id, key)
    if sent is None:
        return False
    _same(sent.digest, ticket.digest, key)
    if sent.turn is None:
        # It waits in the inbox, and its ticket has been told that the daemon stops.
        raise Problem("shutting_down", "walrusd is stopping", "Send again when it is back.")
    if (turn := live.session.turn) and turn.number == sent.turn:
        ticket.start(turn.number, turn.first_seq, turn.first_seq, live.feed)
        live.waiting.append(ticket)
        return True
    span = await log.span(live.id, sent.turn)
    assert span, "a turn that was opened has a first seq"
    assert span.last_seq, "a turn that is not open has ended"
    row = (await log.events(live.id, span.last_seq - 1, 1))[0]
    done = decode_row(row.body)
    assert isinstance(done, Done), "a turn's last event is its done"
    ticket.start(sent.turn, span.first_seq, span.first_seq, live.feed)
    ticket.finish(result_of(done, live.id, span.first_seq, span.last_seq))
    return True


def _refuse_when_closing(live: LiveSession) -> None:
    if live.closing:
        raise Problem(
            "session_closed", f"session {live.id} is closed", "Create a new one: `walrusctl session create AGENT`."
        )


async def _admit(live: LiveSession, message: Incoming, ticket: Ticket, workers: Workers) -> None:
    _refuse_when_closing(live)
    sent = (Sent(key=message.key, digest=ticket.digest),) if message.key is not None else ()
    if workers.claim(live):
        event = UserMessage(
            content=message.content,
            sender=message.sender,
            key=message.key,
            kind=message.kind,
            timeout_s=message.timeout_s,
        )
        try:
            await live.recorder.record(event, beside=Beside(sent=sent, applied=lambda: live.land(ticket)))
        except BaseException:
            workers.unclaim(live)
            raise
        workers.start(live, message.timeout_s)
        return
    if message.when_busy == "reject" and live.busy:
        raise Problem(
            "session_busy",
            f"session {live.id} has a turn under way",
            "Wait for it; a message may wait by itself, with when_busy=queue.",
            retry_after_ms=RETRY_AFTER_MS,
        )
    await _enqueue(live, message, ticket, sent, workers)


async def _enqueue(
    live: LiveSession, message: Incoming, ticket: Ticket, sent: tuple[Sent, ...], workers: Workers
) -> None:
    if live.messages_queued + live.entering >= INBOX:
        raise Problem(
            "inbox_full",
            f"{INBOX} messages wait for session {live.id} already",
            "Send again when some of them are answered.",
            retry_after_ms=RETRY_AFTER_MS,
        )
    interrupts = message.when_busy == "interrupt"
    kind: MessageKind = "steer" if message.when_busy == "steer" else message.kind
    queued = Queued(
        place=live.place(first=interrupts),
        kind=kind,
        content=message.content,
        sender=message.sender,
        key=message.key,
        timeout_s=message.timeout_s,
    )

    entered = False

    def enter() -> None:
        nonlocal entered
        entered = True
        live.entering -= 1  # from here on it counts in the inbox, and not twice
        live.queued[queued.place] = ticket
        ticket.enter(1 + live.inbox.index(queued))
        live.poke.set()
        live.say(
            MessageQueued(
                ts=live.shared.clock(),
                session=live.id,
                kind=kind,
                sender=queued.sender,
                position=ticket.position,
            )
        )
        workers.rouse(live)

    entry = Beside(enqueue=(queued,), sent=sent, applied=enter)
    live.entering += 1
    try:
        # In one transaction: a message that is accepted has interrupted, and one that is refused has not.
        if not (interrupts and await request_interrupt(live, by=message.sender or "client", beside=entry)):
            _refuse_when_closing(live)  # a close may have been accepted while the interrupt was not
            await live.recorder.record(beside=entry)
    finally:
        if not entered:
            live.entering -= 1
        workers.rouse(live)
