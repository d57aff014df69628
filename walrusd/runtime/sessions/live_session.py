"""A session in memory: its state, recorder, stream, inbox and the handles of its turns."""

from collections.abc import Callable

import trio
from msgspec import Struct

from walrus_protocol.events import (
    AnyEvent,
    AnyLiveEvent,
    AssistantMessage,
    Done,
    StateChanged,
    TurnResumed,
)
from walrus_protocol.problems import Problem
from walrusd.ports import Clock
from walrusd.runtime.recording.recorder import PendingRecord, Recorder, TransactionExtras
from walrusd.runtime.sessions.fork_history import read_inherited
from walrusd.runtime.streams.fanout import SessionStream
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, ReplyInProgress, StreamSnapshot
from walrusd.runtime.turns.drafts import ReplyBuffer
from walrusd.runtime.turns.turn_handle import TurnHandle, make_turn_result
from walrusd.session.history import ConversationView
from walrusd.session.recovery import Draft
from walrusd.session.session import Session
from walrusd.store.contract import IdempotencyKey, InboxEntry, Log

FORCED_CLOSE = "force"
"""Content of a queued close that ends the turns before it, instead of waiting for them."""


class SessionDependencies(Struct, frozen=True, kw_only=True):
    """The services that all sessions of a runtime share."""

    log: Log
    clock: Clock
    on_event: Callable[[str, AnyEvent], None]
    """Called with the agent's name and every event, logged or live, of its sessions. Does not raise."""
    on_state_mismatch: Callable[[BaseException], None]
    """Called if a state differs from the log on disk; ends the runtime."""
    global_stream: GlobalStream


class AdmittedTurn(Struct, frozen=True):
    """A turn that was opened when its message was accepted; a slot is taken for it already."""

    timeout_s: float | None


class LiveSession:
    """One session in memory. Only the session cache creates it, and closes it when it is evicted."""

    def __init__(self, session: Session, deps: SessionDependencies, size: int = 0) -> None:
        self.session = session
        self.deps = deps
        self.size = size
        """Bytes of its log on disk, and of the logs that a fork inherits once they have been read."""
        self.stream = SessionStream(
            session.id, deps.log, session.state.last_seq, self._snapshot, deps.global_stream.batched_wakeup
        )
        self.recorder = Recorder(session, deps.log, deps.clock, self._publish, deps.on_state_mismatch)
        self._state = session.state.state
        self._inherit_lock = trio.Lock()
        self.recovered_draft: Draft | None = None
        """The draft of the current round, of a turn that an earlier process left open."""
        self.reply_buffer: ReplyBuffer | None = None
        self.pending_draft_write: PendingRecord | None = None
        self.slot_wait: trio.CancelScope | None = None
        """The cancel scope of its worker's wait for a slot."""
        self.turn_scope: trio.CancelScope | None = None
        """The cancel scope of the turn, while the turn may be cancelled."""
        self.has_worker = False
        self.next_turn: AdmittedTurn | None = None
        """A turn that was opened while the worker was still finishing the turn before it."""
        self.opening = False
        """A task is about to open a turn, to rewind the session or to close it."""
        self.enqueuing = 0
        """Number of messages that are being written to the inbox."""
        self.close_lock = trio.Lock()
        """Serializes closes: each one depends on what the one before it did."""
        self.accepting_close = False
        self.last_place = 0
        self.first_place = 0
        self.suspended = False
        """Its worker waits until the store can write again."""
        self.retry_now = trio.Event()
        """Set to make a suspended worker retry the store now."""
        self.handles_by_key: dict[str, TurnHandle] = {}
        """Handles of sends with a key that are not settled yet."""
        self.handles_by_place: dict[int, TurnHandle] = {}
        """Handles of queued messages, by their place in the inbox."""
        self.turn_handles: list[TurnHandle] = []
        """Handles of the open turn."""
        self.last_done: Done | None = None
        """The `done` of the last turn that ended in this process."""

    def close(self) -> None:
        """Breaks the reference cycles, so that the memory of an evicted session is freed at once.

        The garbage collector runs rarely.
        """
        del self.stream, self.recorder

    @property
    def id(self) -> int:
        return self.session.id

    @property
    def inbox(self) -> list[InboxEntry]:
        return self.recorder.inbox

    @property
    def messages_queued(self) -> int:
        return sum(entry.kind != "close" for entry in self.inbox)

    @property
    def is_busy(self) -> bool:
        """Whether a new message has to wait, for a turn or for another message."""
        return self.opening or self.session.turn is not None or self.enqueuing > 0 or bool(self.inbox)

    @property
    def is_closing(self) -> bool:
        """Whether the session is closed, or a close was accepted and is queued."""
        return (
            self.accepting_close
            or self.session.state.state == "closed"
            or any(entry.kind == "close" for entry in self.inbox)
        )

    @property
    def is_interrupted(self) -> bool:
        """Whether no turn is open, or an interrupt of the open one is recorded."""
        turn = self.session.turn
        return turn is None or turn.interrupt is not None

    @property
    def has_forced_close(self) -> bool:
        """Whether a forced close was accepted and is queued; it ends the turns before it as interrupted."""
        return any(entry.kind == "close" and entry.content == FORCED_CLOSE for entry in self.inbox)

    @property
    def draft(self) -> Draft | None:
        return self.reply_buffer.to_draft() if self.reply_buffer else self.recovered_draft

    async def history(self) -> ConversationView:
        """Returns the messages that the model sees. The first call on a fork reads the inherited ones.

        Raises Problem storage_failed and StorageFailed.
        """
        conversation = self.session.conversation
        if conversation.missing_parent is not None:
            async with self._inherit_lock:
                if conversation.missing_parent is not None:
                    messages, size = await read_inherited(self.deps.log, conversation.missing_parent)
                    conversation.inherit(messages)
                    self.size += size
        return self.session.history

    def publish_live(self, event: AnyLiveEvent) -> None:
        """Passes a live event to the hook and to the subscribers."""
        agent, live_event = self.session.state.agent, LiveEvent(self.stream.last_seq, event)
        self.deps.on_event(agent, event)
        self.stream.publish_live(live_event)
        self.deps.global_stream.publish_live(live_event, agent)

    def replies_in_progress(self) -> tuple[ReplyInProgress, ...]:
        """Returns the reply in progress, if there is one."""
        draft, agent, turn = self.draft, self.session.state.agent, self.session.turn
        number = turn.number if turn else None
        return (ReplyInProgress(session=self.id, agent=agent, turn=number, draft=draft),) if draft else ()

    def _snapshot(self) -> StreamSnapshot:
        turn, state = self.session.turn, self.session.state.state or "idle"
        number = turn.number if turn else None
        return StreamSnapshot(
            ts=self.deps.clock(), session=self.id, state=state, turn=number, replies=self.replies_in_progress()
        )

    def _publish(self, logged_event: LoggedEvent) -> None:
        event, state = logged_event.event, self.session.state
        self.size += len(logged_event.body)
        state_before = self._state
        self._state = state.state
        self.deps.on_event(state.agent, event)
        if isinstance(event, AssistantMessage | TurnResumed):
            self.reply_buffer = self.recovered_draft = None
        self.stream.publish(logged_event)
        self.deps.global_stream.publish(logged_event, state.agent)
        if state.state and state.state != state_before:
            self.publish_live(StateChanged(ts=event.ts, session=self.id, turn=event.turn, state=state.state))
        if isinstance(event, Done):
            self._finish_turn(event, logged_event.seq)

    def next_place(self, *, first: bool = False) -> int:
        """Returns a new place in the inbox: behind all others, or before them."""
        if first:
            self.first_place -= 1
            return self.first_place
        self.last_place += 1
        return self.last_place

    def create_turn_handle(self) -> TurnHandle:
        """Returns a new handle of the open turn."""
        turn = self.session.turn
        assert turn is not None, "called only while a turn is open"
        handle = TurnHandle(self.id)
        handle.mark_started(turn.number, turn.first_seq, turn.first_seq, self.stream)
        self.turn_handles.append(handle)
        return handle

    def extras_for_dequeue(self, entry: InboxEntry) -> TransactionExtras:
        """Returns the extras that move an inbox entry into the log, to be recorded with its user message."""
        handle = self.handles_by_place[entry.place]

        def bind() -> None:
            self.handles_by_place.pop(entry.place, None)
            self.bind_to_turn(handle)

        keys = (IdempotencyKey(key=entry.key, digest=handle.digest),) if entry.key is not None else ()
        return TransactionExtras(dequeue=(entry.place,), idempotency_keys=keys, on_applied=bind)

    def bind_to_turn(self, handle: TurnHandle) -> None:
        """Binds the handle to the open turn; its message has just become the last event of the log."""
        turn = self.session.turn
        assert turn is not None, "a recorded user message is in a turn"
        handle.mark_started(turn.number, turn.first_seq, self.session.state.last_seq, self.stream)
        self.turn_handles.append(handle)

    def _finish_turn(self, done: Done, seq: int) -> None:
        self.reply_buffer = self.recovered_draft = None
        self.last_done = done
        handles, self.turn_handles = self.turn_handles, []
        for handle in handles:
            handle.finish(make_turn_result(done, self.id, handle.first_seq, seq))
        self.drop_settled_keys()

    def fail_turn_handles(self, problem: Problem) -> None:
        """Fails the handles of the open turn, because its end cannot be recorded now."""
        handles, self.turn_handles = self.turn_handles, []
        turn = self.session.turn
        for handle in handles:
            handle.fail(problem.with_data(session=self.id, turn=turn.number if turn else None))
        self.drop_settled_keys()

    def fail_all_handles(self, problem: Problem) -> None:
        """Fails the handles of the open turn and of queued messages; the messages stay in the inbox."""
        handles, self.handles_by_place = self.handles_by_place, {}
        for handle in handles.values():
            handle.fail(problem.with_data(session=self.id, turn=None))
        self.fail_turn_handles(problem)

    def drop_settled_keys(self) -> None:
        """Drops the handles of settled sends; a repeat of their key is answered from the store."""
        self.handles_by_key = {
            key: handle for key, handle in self.handles_by_key.items() if not handle.settled.is_set()
        }
