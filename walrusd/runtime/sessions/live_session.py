"""A session in memory: its folded state, its stream, its inbox and the turn under way."""

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
from walrusd.runtime.sessions.weak_callback import weak_method
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
"""The content of a queued close that waits for no turn."""


class SessionDependencies(Struct, frozen=True, kw_only=True):
    """What every session of a runtime is joined to."""

    log: Log
    clock: Clock
    on_event: Callable[[str, AnyEvent], None]
    """Shown every event of an agent's sessions. Does not raise."""
    on_state_mismatch: Callable[[BaseException], None]
    """Told when the state no longer is what the disk says; the runtime ends."""
    global_stream: GlobalStream


class AdmittedTurn(Struct, frozen=True):
    """A turn that was opened on acceptance, with a slot taken for it."""

    timeout_s: float | None


class LiveSession:
    """One session in memory: its fold, its recorder, its readers, and who waits for which of its turns.

    It lives as long as somebody holds it. Its parts know it only weakly: without a cycle it is gone, and its memory
    free, at the moment when the last holder lets it go.
    """

    def __init__(self, session: Session, deps: SessionDependencies, size: int = 0) -> None:
        self.session = session
        self.deps = deps
        self.size = size
        """Bytes of its log, and of what it inherits once that has been read."""
        self.stream = SessionStream(
            session.id, deps.log, session.state.last_seq, weak_method(self._snapshot), deps.global_stream.batched_wakeup
        )
        self.recorder = Recorder(session, deps.log, deps.clock, weak_method(self._publish), deps.on_state_mismatch)
        self._state = session.state.state
        self._inherit_lock = trio.Lock()
        self.recovered_draft: Draft | None = None
        """The round under way of a turn that an earlier process left open."""
        self.reply_buffer: ReplyBuffer | None = None
        self.pending_draft_write: PendingRecord | None = None
        self.slot_wait: trio.CancelScope | None = None
        """Its worker's wait for a slot."""
        self.turn_scope: trio.CancelScope | None = None
        """The turn's, while it may be cancelled."""
        self.has_worker = False
        """It has a worker."""
        self.next_turn: AdmittedTurn | None = None
        """A turn that was opened for its worker while that was still at the one before."""
        self.opening = False
        """Somebody is about to open a turn, or to close it."""
        self.enqueuing = 0
        """Messages on their way into the inbox."""
        self.close_lock = trio.Lock()
        """One close at a time: each looks at what the one before it has left to do."""
        self.accepting_close = False
        self.last_place = 0
        self.first_place = 0
        self.suspended = False
        """Its worker waits for a store that can write again."""
        self.retry_now = trio.Event()
        """Set to make a suspended worker try the store again now."""
        self.handles_by_key: dict[str, TurnHandle] = {}
        """Sends with a key that are not settled yet."""
        self.handles_by_place: dict[int, TurnHandle] = {}
        """Who waits for which inbox entry, by place."""
        self.turn_handles: list[TurnHandle] = []
        """Who waits for the open turn."""
        self.last_done: Done | None = None
        """How the last turn ended, if it did in this process."""

    @property
    def id(self) -> int:
        return self.session.id

    @property
    def inbox(self) -> list[InboxEntry]:
        return self.recorder.inbox

    @property
    def messages_queued(self) -> int:
        return sum(queued.kind != "close" for queued in self.inbox)

    @property
    def is_busy(self) -> bool:
        """A message that comes now has to wait for another."""
        return self.opening or self.session.turn is not None or self.enqueuing > 0 or bool(self.inbox)

    @property
    def is_closing(self) -> bool:
        """Closed, or a close is accepted and waits for its turn."""
        return (
            self.accepting_close
            or self.session.state.state == "closed"
            or any(queued.kind == "close" for queued in self.inbox)
        )

    @property
    def is_interrupted(self) -> bool:
        """No turn is open, or it has been asked to stop."""
        turn = self.session.turn
        return turn is None or turn.interrupt is not None

    @property
    def has_forced_close(self) -> bool:
        """A close is accepted that ends queued messages unanswered."""
        return any(queued.kind == "close" and queued.content == FORCED_CLOSE for queued in self.inbox)

    @property
    def draft(self) -> Draft | None:
        return self.reply_buffer.to_draft() if self.reply_buffer else self.recovered_draft

    async def history(self) -> ConversationView:
        """What the model sees. A fork reads what it inherits when it is first asked. Raises Problem, StorageFailed."""
        conversation = self.session.conversation
        if conversation.missing_parent is not None:
            async with self._inherit_lock:
                if conversation.missing_parent is not None:
                    messages, size = await read_inherited(self.deps.log, conversation.missing_parent)
                    conversation.inherit(messages)
                    self.size += size
        return self.session.history

    def publish_live(self, event: AnyLiveEvent) -> None:
        """Pass a live event to the hook and to whoever listens."""
        agent, passing = self.session.state.agent, LiveEvent(self.stream.last_seq, event)
        self.deps.on_event(agent, event)
        self.stream.publish_live(passing)
        self.deps.global_stream.publish_live(passing, agent)

    def replies_in_progress(self) -> tuple[ReplyInProgress, ...]:
        """The reply under way, if there is one."""
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
        event, outline = logged_event.event, self.session.state
        self.size += len(logged_event.body)
        state_before = self._state
        self._state = outline.state
        self.deps.on_event(outline.agent, event)
        if isinstance(event, AssistantMessage | TurnResumed):
            self.reply_buffer = self.recovered_draft = None
        self.stream.publish(logged_event)
        self.deps.global_stream.publish(logged_event, outline.agent)
        if outline.state and outline.state != state_before:
            self.publish_live(StateChanged(ts=event.ts, session=self.id, turn=event.turn, state=outline.state))
        if isinstance(event, Done):
            self._finish_turn(event, logged_event.seq)

    def next_place(self, *, first: bool = False) -> int:
        """A new place in the inbox: behind all others, or before them."""
        if first:
            self.first_place -= 1
            return self.first_place
        self.last_place += 1
        return self.last_place

    def create_turn_handle(self) -> TurnHandle:
        """A ticket for the open turn."""
        turn = self.session.turn
        assert turn is not None, "asked only while a turn is open"
        ticket = TurnHandle(self.id)
        ticket.mark_started(turn.number, turn.first_seq, turn.first_seq, self.stream)
        self.turn_handles.append(ticket)
        return ticket

    def extras_for_dequeue(self, entry: InboxEntry) -> TransactionExtras:
        """What moves an inbox entry into the log, with the user message recorded beside it."""
        ticket = self.handles_by_place[entry.place]

        def land() -> None:
            self.handles_by_place.pop(entry.place, None)
            self.bind_to_turn(ticket)

        sent = (IdempotencyKey(key=entry.key, digest=ticket.digest),) if entry.key is not None else ()
        return TransactionExtras(dequeue=(entry.place,), idempotency_keys=sent, on_applied=land)

    def bind_to_turn(self, handle: TurnHandle) -> None:
        """The ticket's message has just become the last event of the log."""
        turn = self.session.turn
        assert turn is not None, "a recorded user message is in a turn"
        handle.mark_started(turn.number, turn.first_seq, self.session.state.last_seq, self.stream)
        self.turn_handles.append(handle)

    def _finish_turn(self, done: Done, seq: int) -> None:
        self.reply_buffer = self.recovered_draft = None
        self.last_done = done
        waiting, self.turn_handles = self.turn_handles, []
        for ticket in waiting:
            ticket.finish(make_turn_result(done, self.id, ticket.first_seq, seq))
        self.drop_settled_keys()

    def fail_turn_handles(self, problem: Problem) -> None:
        """Tell who waits for the open turn that its end cannot be told now."""
        waiting, self.turn_handles = self.turn_handles, []
        turn = self.session.turn
        for ticket in waiting:
            data = {**problem.data, "session": self.id, "turn": turn.number if turn else None}
            ticket.fail(Problem(problem.kind, problem.message, problem.hint, **data))
        self.drop_settled_keys()

    def fail_all_handles(self, problem: Problem) -> None:
        """Tell everyone who waits; what they sent stays where it is."""
        queued, self.handles_by_place = self.handles_by_place, {}
        for ticket in queued.values():
            ticket.fail(Problem(problem.kind, problem.message, problem.hint, session=self.id, turn=None))
        self.fail_turn_handles(problem)

    def drop_settled_keys(self) -> None:
        """A settled send is found in the store from now on."""
        self.handles_by_key = {
            key: ticket for key, ticket in self.handles_by_key.items() if not ticket.settled.is_set()
        }
