"""How a message comes in: its turn begins at once, or it is committed to the session's inbox. Either is acceptance."""

import hashlib

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


async def accept(live: LiveSession, message: Incoming, digest: bytes, workers: Workers) -> Ticket:
    """A ticket for the turn that `message` becomes; it is durable when this returns.

    Raises Problem (session_closed, session_busy, inbox_full, key_reused) and StorageFailed.
    """
    if message.key is None:
        ticket = Ticket(live.id)
        await _admit(live, message, ticket, workers)
        return ticket
    return await _accept_once(live, message, message.key, digest, workers)


async def _accept_once(live: LiveSession, message: Incoming, key: str, digest: bytes, workers: Workers) -> Ticket:
    """The first send with a key is admitted; a later one shares its ticket, or gets its result from the log."""
    if twin := live.keyed.get(key):
        _same(twin.digest, digest, key)
        await twin.accepted.wait()  # owner: the first sender, who settles it or gives it its turn
        return twin
    ticket = live.keyed[key] = Ticket(live.id, digest)
    try:
        if not await _repeats(live, key, ticket):
            await _admit(live, message, ticket, workers)
    except BaseException as refusal:
        del live.keyed[key]
        ticket.fail(refusal if isinstance(refusal, Problem) else Problem("cancelled", "the first send was cut off"))
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
    span = await log.span(live.id, sent.turn) if sent.turn else None
    if sent.turn is None or span is None:
        return False
    ticket.start(sent.turn, span.first_seq, span.first_seq, live.feed)
    if span.last_seq is None:
        live.waiting.append(ticket)
        return True
    row = (await log.events(live.id, span.last_seq - 1, 1))[0]
    done = decode_row(row.body)
    assert isinstance(done, Done), "a turn's last event is its done"
    ticket.finish(result_of(done, live.id, span.first_seq, span.last_seq))
    return True


async def _admit(live: LiveSession, message: Incoming, ticket: Ticket, workers: Workers) -> None:
    if live.closing:
        raise Problem(
            "session_closed", f"session {live.id} is closed", "Create a new one: `walrusctl session create AGENT`."
        )
    sent = (Sent(key=message.key, digest=ticket.digest),) if message.key is not None else ()
    if workers.claim(live):
        event = UserMessage(content=message.content, sender=message.sender, key=message.key)
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
            "Wait for it, or send with when_busy=queue.",
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
    kind: MessageKind = "steer" if message.when_busy == "steer" else "message"
    queued = Queued(
        place=live.place(first=interrupts),
        kind=kind,
        content=message.content,
        sender=message.sender,
        key=message.key,
        timeout_s=message.timeout_s,
    )

    def enter() -> None:
        live.queued[queued.place] = ticket
        ticket.position = 1 + live.inbox.index(queued)
        ticket.accepted.set()
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

    running = live.session.turn
    live.entering += 1
    try:
        await live.recorder.record(beside=Beside(enqueue=(queued,), sent=sent, applied=enter))
    finally:
        live.entering -= 1
        workers.rouse(live)
    if interrupts and running:
        await request_interrupt(live, running.number, by=message.sender)
