"""Accepts messages: a turn begins at once, or the message is committed to the session's inbox."""

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

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
from walrusd.store.tables.idempotency_key import put_key, read_key
from walrusd.store.tables.inbox import Enqueue, InboxEntry
from walrusd.store.tables.turn import read_turn_span

MAX_QUEUED_MESSAGES = 64
"""Maximum messages queued for one session; a client that is further ahead is refused with inbox_full."""
RETRY_AFTER_MS = 1000
"""Milliseconds after which a client may retry a request that was refused as busy."""


class MessageRequest(Struct, frozen=True, kw_only=True):
    """A message that is to be accepted."""

    content: Content
    sender: str = ""
    key: str | None = None
    when_busy: WhenBusy = "queue"
    timeout_s: float | None = None
    kind: MessageKind = "message"
    by: str = ""
    """The principal that sends it, for the interrupt that it may request."""


def hash_content(content: Content) -> bytes:
    """Returns the hash that distinguishes a retry from a reused key.

    Raises Problem if the message is too large.
    """
    encoded = msgspec.json.encode(content)
    if len(encoded) > MAX_MESSAGE:
        raise Problem(
            "invalid_params",
            f"the message is {len(encoded):,} bytes of JSON; at most {MAX_MESSAGE:,} are accepted",
            "Put the large part in a file of the agent's workspace, and send the path.",
        )
    return hashlib.sha256(encoded).digest()


PrepareMessage = Callable[[], Awaitable[MessageRequest]]
"""Returns the message as it is to be recorded. Raises Problem if no turn could answer it."""


async def accept_message(
    live: LiveSession, message: MessageRequest, prepare: PrepareMessage, worker_pool: WorkerPool
) -> TurnHandle:
    """Accepts a message, durable on return, and returns the handle of the turn that it becomes.

    Raises Problem (session_closed, session_busy, inbox_full, key_reused) and StorageFailed.
    """
    digest = hash_content(message.content)  # before `prepare`: a hook may change a retry in another way
    if message.key is None:
        handle = TurnHandle(live.id)
        await _start_or_enqueue(live, await prepare(), handle, worker_pool)
        return handle
    return await _accept_idempotent(live, message.key, digest, prepare, worker_pool)


async def _accept_idempotent(
    live: LiveSession, key: str, digest: bytes, prepare: PrepareMessage, worker_pool: WorkerPool
) -> TurnHandle:
    """Accepts the first send with a key; a later one shares its handle, or gets the result from the log."""
    while first := live.handles.by_key.get(key):
        await first.accepted.wait()  # ended by the first send
        if first.turn or first.queue_position:
            _check_same_content(first.digest, digest, key)
            return first
        # The first send was refused or cancelled, so the key is unused: accept this one.
    handle = live.handles.by_key[key] = TurnHandle(live.id, digest)
    try:
        if not await _bind_if_repeated(live, key, handle):
            await _start_or_enqueue(live, await prepare(), handle, worker_pool)
    except BaseException:
        del live.handles.by_key[key]
        handle.accepted.set()
        raise
    live.handles.drop_settled_keys()
    return handle


def _check_same_content(known_digest: bytes, digest: bytes, key: str) -> None:
    if known_digest != digest:
        raise Problem(
            "key_reused",
            f"key {key!r} was used for another message",
            "Use a new key for each message.",
        )


async def _bind_if_repeated(live: LiveSession, key: str, handle: TurnHandle) -> bool:
    """Returns whether the key was used before; if so, binds the handle to the turn of the first send."""
    log = live.deps.log
    known = await log.read(read_key, live.id, key)
    if known is None:
        return False
    _check_same_content(known.digest, handle.digest, key)
    if known.turn is None:
        # The first send waits in the inbox; its handle was failed when the daemon began to stop.
        raise Problem("shutting_down", "walrusd is stopping", "Send again when it is running again.")
    if (turn := live.session.turn) and turn.number == known.turn:
        live.handles.join_open_turn(handle)
        return True
    span = await log.read(read_turn_span, live.id, known.turn)
    assert span, "a turn that was opened has a first seq"
    assert span.last_seq, "a turn that is not open has ended"
    row = (await log.events(live.id, span.last_seq - 1, 1))[0]
    done = decode_row(row.body)
    assert isinstance(done, Done), "a turn's last event is its done"
    handle.mark_started(known.turn, span.first_seq, span.first_seq, live.stream)
    handle.finish(make_turn_result(done, live.id, span.first_seq, span.last_seq))
    return True


def _check_not_closing(live: LiveSession) -> None:
    if live.is_closing:
        raise Problem(
            "session_closed",
            f"session {live.id} is closed",
            f"Fork it to continue: `walrusctl session fork {live.id}`.",
        )


async def _start_or_enqueue(
    live: LiveSession, message: MessageRequest, handle: TurnHandle, worker_pool: WorkerPool
) -> None:
    _check_not_closing(live)
    if worker_pool.try_begin_opening(live):
        event = UserMessage(
            content=message.content,
            sender=message.sender,
            key=message.key,
            kind=message.kind,
            timeout_s=message.timeout_s,
        )
        bind = partial(live.handles.bind_to_last_message, handle)
        try:
            extras = TransactionExtras(mutations=put_key(message.key, handle.digest), on_applied=bind)
            await live.recorder.record(event, extras=extras)
        except BaseException:
            worker_pool.cancel_opening(live)
            raise
        worker_pool.start_turn(live, message.timeout_s)
        return
    if message.when_busy == "reject" and live.is_busy:
        raise Problem(
            "session_busy",
            f"session {live.id} has a turn under way",
            "Wait for its end, or send with when_busy=queue to queue the message.",
            retry_after_ms=RETRY_AFTER_MS,
        )
    await _enqueue(live, message, handle, worker_pool)


async def _enqueue(
    live: LiveSession,
    message: MessageRequest,
    handle: TurnHandle,
    worker_pool: WorkerPool,
) -> None:
    if live.inbox.reserved_count >= MAX_QUEUED_MESSAGES:
        raise Problem(
            "inbox_full",
            f"session {live.id} has {MAX_QUEUED_MESSAGES} queued messages already",
            "Send again when some of them are answered.",
            retry_after_ms=RETRY_AFTER_MS,
        )
    interrupts = message.when_busy == "interrupt"
    kind: MessageKind = "steer" if message.when_busy == "steer" else message.kind
    entry = InboxEntry(
        place=live.inbox.next_place(first=interrupts),
        kind=kind,
        content=message.content,
        sender=message.sender,
        key=message.key,
        timeout_s=message.timeout_s,
    )

    with live.inbox.reservation() as release:

        def on_committed() -> None:
            release()
            live.handles.by_place[entry.place] = handle
            handle.mark_queued(1 + live.inbox.entries.index(entry))
            live.admission.retry_store()
            live.publish_live(
                MessageQueued(
                    ts=live.deps.clock(),
                    session=live.id,
                    kind=kind,
                    sender=entry.sender,
                    position=handle.queue_position,
                )
            )
            worker_pool.ensure_worker(live)

        mutations = (Enqueue(entry), *put_key(entry.key, handle.digest))
        extras = TransactionExtras(mutations=mutations, on_applied=on_committed)
        try:
            # Interrupt and message are one transaction: only an accepted message interrupts.
            if not (interrupts and await request_interrupt(live, by=message.by, extras=extras)):
                _check_not_closing(live)  # a close may have been accepted during the failed interrupt
                await live.recorder.record(extras=extras)
        finally:
            worker_pool.ensure_worker(live)
