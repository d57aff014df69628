"""A session in memory: its state, recorder, stream, inbox and the handles of its turns."""

from collections.abc import Callable

import trio
from msgspec import Struct

from walrus_protocol.events import (
    AnyLiveEvent,
    AssistantMessage,
    Done,
    StateChanged,
    TurnResumed,
)
from walrusd.ports import Clock
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.recording.recorder import PendingRecord, Recorder, TransactionExtras
from walrusd.runtime.sessions.admission import Admission
from walrusd.runtime.sessions.fork_history import read_inherited
from walrusd.runtime.sessions.session_inbox import SessionInbox
from walrusd.runtime.streams.fanout import SessionStream
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, ReplyInProgress, StreamSnapshot
from walrusd.runtime.turns.drafts import ReplyBuffer
from walrusd.runtime.turns.turn_handle import TurnHandles
from walrusd.session.conversation import ConversationView
from walrusd.session.recovery import Draft
from walrusd.session.session import Session
from walrusd.store.contract import Log
from walrusd.store.tables.idempotency_key import put_key
from walrusd.store.tables.inbox import Dequeue, InboxEntry


class SessionDependencies(Struct, kw_only=True):
    """The services that all sessions of a runtime share."""

    log: Log
    clock: Clock
    hook: ComposedHook
    """Observes the events of all sessions; a reload replaces it."""
    on_state_mismatch: Callable[[BaseException], None]
    """Called if a state differs from the log on disk; ends the runtime."""
    global_stream: GlobalStream


class LiveSession:
    """One session in memory. Only the session cache creates it, and closes it when it is evicted."""

    def __init__(self, session: Session, deps: SessionDependencies, size: int = 0) -> None:
        self.session = session
        self.id = session.id
        self.deps = deps
        self.size = size
        """Bytes of its log on disk, and of the logs that a fork inherits once they have been read."""
        self.stream = SessionStream(
            session.id, deps.log, session.state.last_seq, self._snapshot, deps.global_stream.batched_wakeup
        )
        self.recorder = Recorder(session, deps.log, deps.clock, self._publish, deps.on_state_mismatch)
        self.inbox = SessionInbox(self.recorder)
        self.handles = TurnHandles(session, self.stream)
        self.admission = Admission()
        self.close_lock = trio.Lock()
        """Held while a close is accepted: each one depends on what the one before it did."""
        self._state = session.state.state
        self._inherit_lock = trio.Lock()
        self.recovered_draft: Draft | None = None
        """The draft of the current round, of a turn that an earlier process left open."""
        self.reply_buffer: ReplyBuffer | None = None
        self.pending_draft_write: PendingRecord | None = None
        self.last_done: Done | None = None
        """The `done` of the last turn that ended in this process."""

    def close(self) -> None:
        """Breaks the reference cycles, so that the memory of an evicted session is freed at once.

        The garbage collector runs rarely.
        """
        del self.stream, self.recorder, self.inbox, self.handles

    @property
    def is_busy(self) -> bool:
        """Whether a new message has to wait, for a turn or for another message."""
        return not self.admission.can_begin_opening or self.session.turn is not None or not self.inbox.is_empty

    @property
    def is_closing(self) -> bool:
        """Whether no message is accepted any more, because a close was accepted or is being accepted."""
        return self.close_lock.locked() or self.session.state.state == "closed" or self.inbox.has_close

    @property
    def is_interrupted(self) -> bool:
        """Whether no turn is open, or an interrupt of the open one is recorded."""
        turn = self.session.turn
        return turn is None or turn.interrupt is not None

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
        if self.deps.hook.observes_live_events:
            self.deps.hook.on_live_event(agent, event)
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
        self.deps.hook.on_event(state.agent, event)
        if isinstance(event, AssistantMessage | TurnResumed):
            self.reply_buffer = self.recovered_draft = None
        self.stream.publish(logged_event)
        self.deps.global_stream.publish(logged_event, state.agent)
        if state.state and state.state != state_before:
            self.publish_live(StateChanged(ts=event.ts, session=self.id, turn=event.turn, state=state.state))
        if isinstance(event, Done):
            self.reply_buffer = self.recovered_draft = None
            self.last_done = event
            self.handles.finish_turn(event, logged_event.seq)

    def extras_for_dequeue(self, entry: InboxEntry) -> TransactionExtras:
        """Returns the extras that move an inbox entry into the log, to be recorded with its user message."""
        handle = self.handles.by_place[entry.place]

        def bind() -> None:
            self.handles.by_place.pop(entry.place, None)
            self.handles.bind_to_last_message(handle)

        return TransactionExtras(mutations=(Dequeue(entry.place), *put_key(entry.key, handle.digest)), on_applied=bind)
