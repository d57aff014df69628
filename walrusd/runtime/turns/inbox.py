"""How a message comes in: its turn begins at once, or it is committed to the session's inbox. Either is acceptance."""

import hashlib
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from walrus_protocol.content import Content, MessageKind, WhenBusy
from walrus_protocol.events import Done, MessageQueued, UserMessage, decode_row
from walrus_protocol.problems import Problem
from walrus_protocol.wire import MAX_MESSAGE
from walrusd.runtime.commands.interrupt_close import request_interrupt
from walrusd.runtime.recording.recorder import TransactionExtras
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.turns.turn_handle import TurnHandle, make_turn_result
from walrusd.runtime.turns.worker_pool import WorkerPool
from walrusd.store.contract import IdempotencyKey, InboxEntry

MAX_QUEUED_MESSAGES = 64
"""Messages that may wait for one session: a person or a script that is further ahead than this should be told."""
RETRY_AFTER_MS = 1000


class MessageRequest(Struct, frozen=True, kw_only=True):
    """A message on its way in."""

    content: Content
    sender: str = ""
    key: str | None = None
    when_busy: WhenBusy = "queue"
    timeout_s: float | None = None
    kind: MessageKind = "message"


def hash_content(content: Content) -> bytes:
    """By which a repeated key is told from a reused one. Raises Problem for a message that is too large."""
    encoded = msgspec.json.encode(content)
    if len(encoded) > MAX_MESSAGE:
        raise Problem(
            "invalid_params",
            f"the message is {len(encoded):,} bytes of JSON; at most {MAX_MESSAGE:,} are taken",
            "Put what is large in a file of the agent's workspace and name it.",
        )
    return hashlib.sha256(encoded).digest()


PrepareMessage = Callable[[], Awaitable[MessageRequest]]
"""The message as it is to be recorded. Raises Problem where it cannot be answered."""


async def accept_message(
    live: LiveSession, message: MessageRequest, prepare: PrepareMessage, worker_pool: WorkerPool
) -> TurnHandle:
    """A ticket for the turn that `message` becomes; it is durable when this returns.

    Raises Problem (session_closed, session_busy, inbox_full, key_reused) and StorageFailed.
    """
    digest = hash_content(message.content)  # of what was sent: a hook need not say the same twice
    if message.key is None:
        ticket = TurnHandle(live.id)
        await _start_or_enqueue(live, await prepare(), ticket, worker_pool)
        return ticket
    return await _accept_idempotent(live, message.key, digest, prepare, worker_pool)


async def _accept_idempotent(
    live: LiveSession, key: str, digest: bytes, prepare: PrepareMessage, worker_pool: WorkerPool
) -> TurnHandle:
    """The first send with a key is admitted; a later one shares its ticket, or gets its result from the log."""
    while twin := live.handles_by_key.get(key):
        await twin.accepted.wait()  # owner: the first sender
        if twin.turn or twin.queue_position:
            _check_same_content(twin.digest, digest, key)
            return twin
        # The first was refused, or has gone, and has used up no key: this one is as good.
    ticket = live.handles_by_key[key] = TurnHandle(live.id, digest)
    try:
        if not await _bind_if_repeated(live, key, ticket):
            await _start_or_enqueue(live, await prepare(), ticket, worker_pool)
    except BaseException:
        del live.handles_by_key[key]
        ticket.accepted.set()
        raise
    live.drop_settled_keys()
    return ticket


def _check_same_content(known_digest: bytes, digest: bytes, key: str) -> None:
    if known_digest != digest:
        raise Problem(
            "key_reused",
            f"key {key!r} was used for another message",
            "Use a key for one message, and a new one for the next.",
        )


async def _bind_if_repeated(live: LiveSession, key: str, handle: TurnHandle) -> bool:
    """Whether the key was used before; then the ticket is that turn's."""
    log = live.deps.log
    sent = await log.idempotency_key(live.id, key)
    if sent is None:
        return False
    _check_same_content(sent.digest, handle.digest, key)
    if sent.turn is None:
        # It waits in the inbox, and its ticket has been told that the daemon stops.
        raise Problem("shutting_down", "walrusd is stopping", "Send again when it is back.")
    if (turn := live.session.turn) and turn.number == sent.turn:
        handle.mark_started(turn.number, turn.first_seq, turn.first_seq, live.stream)
        live.turn_handles.append(handle)
        return True
    span = await log.turn_span(live.id, sent.turn)
    assert span, "a turn that was opened has a first seq"
    assert span.last_seq, "a turn that is not open has ended"
    row = (await log.events(live.id, span.last_seq - 1, 1))[0]
    done = decode_row(row.body)
    assert isinstance(done, Done), "a turn's last event is its done"
    handle.mark_started(sent.turn, span.first_seq, span.first_seq, live.stream)
    handle.finish(make_turn_result(done, live.id, span.first_seq, span.last_seq))
    return True


def _check_not_closing(live: LiveSession) -> None:
    if live.is_closing:
        raise Problem(
            "session_closed", f"session {live.id} is closed", "Create a new one: `walrusctl session create AGENT`."
        )


async def _start_or_enqueue(
    live: LiveSession, message: MessageRequest, handle: TurnHandle, worker_pool: WorkerPool
) -> None:
    _check_not_closing(live)
    sent = (IdempotencyKey(key=message.key, digest=handle.digest),) if message.key is not None else ()
    if worker_pool.try_begin_opening(live):
        event = UserMessage(
            content=message.content,
            sender=message.sender,
            key=message.key,
            kind=message.kind,
            timeout_s=message.timeout_s,
        )
        try:
            await live.recorder.record(
                event, extras=TransactionExtras(idempotency_keys=sent, on_applied=lambda: live.bind_to_turn(handle))
            )
        except BaseException:
            worker_pool.cancel_opening(live)
            raise
        worker_pool.start_turn(live, message.timeout_s)
        return
    if message.when_busy == "reject" and live.is_busy:
        raise Problem(
            "session_busy",
            f"session {live.id} has a turn under way",
            "Wait for it; a message may wait by itself, with when_busy=queue.",
            retry_after_ms=RETRY_AFTER_MS,
        )
    await _enqueue(live, message, handle, sent, worker_pool)


async def _enqueue(
    live: LiveSession,
    message: MessageRequest,
    handle: TurnHandle,
    idempotency_keys: tuple[IdempotencyKey, ...],
    worker_pool: WorkerPool,
) -> None:
    if live.messages_queued + live.enqueuing >= MAX_QUEUED_MESSAGES:
        raise Problem(
            "inbox_full",
            f"{MAX_QUEUED_MESSAGES} messages wait for session {live.id} already",
            "Send again when some of them are answered.",
            retry_after_ms=RETRY_AFTER_MS,
        )
    interrupts = message.when_busy == "interrupt"
    kind: MessageKind = "steer" if message.when_busy == "steer" else message.kind
    queued = InboxEntry(
        place=live.next_place(first=interrupts),
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
        live.enqueuing -= 1  # from here on it counts in the inbox, and not twice
        live.handles_by_place[queued.place] = handle
        handle.mark_queued(1 + live.inbox.index(queued))
        live.retry_now.set()
        live.publish_live(
            MessageQueued(
                ts=live.deps.clock(),
                session=live.id,
                kind=kind,
                sender=queued.sender,
                position=handle.queue_position,
            )
        )
        worker_pool.ensure_worker(live)

    entry = TransactionExtras(enqueue=(queued,), idempotency_keys=idempotency_keys, on_applied=enter)
    live.enqueuing += 1
    try:
        # In one transaction: a message that is accepted has interrupted, and one that is refused has not.
        if not (interrupts and await request_interrupt(live, by=message.sender or "client", extras=entry)):
            _check_not_closing(live)  # a close may have been accepted while the interrupt was not
            await live.recorder.record(extras=entry)
    finally:
        if not entered:
            live.enqueuing -= 1
        worker_pool.ensure_worker(live)
