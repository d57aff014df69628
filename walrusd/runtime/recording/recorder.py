"""Records the events of a session, as its log's only writer: check → persist → apply → publish.

A session has one transaction under way; records that arrive meanwhile join the next one. The state table refuses
an event before it is written, and the state in memory changes only after the disk. So the state always equals
the log on disk.
"""

from bisect import insort
from collections.abc import Callable
from functools import partial
from operator import attrgetter

import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_protocol.events import AnySessionEvent, AssistantMessage, Done, TurnResumed, UserMessage, encode
from walrusd.ports import Clock
from walrusd.runtime.streams.items import LoggedEvent
from walrusd.session.recovery import Draft, is_current
from walrusd.session.session import Session
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields
from walrusd.store.contract import Log, Write
from walrusd.store.tables.draft import DropDraft, SaveDraft
from walrusd.store.tables.idempotency_key import PutKey
from walrusd.store.tables.inbox import Dequeue, Enqueue, InboxEntry
from walrusd.store.tables.table import Mutation
from walrusd.store.tables.turn import AddTurn, PutTurnEnd


class TransactionExtras(Struct, frozen=True, kw_only=True):
    """What a transaction does beside appending events to the log."""

    mutations: tuple[Mutation, ...] = ()
    """A key that is put with a user message gets its turn; a draft of a reply that is over is not saved."""
    precondition: Callable[[SessionState], bool] | None = None
    """Checked right before the write; if false, nothing is written and PreconditionFailed is raised."""
    on_applied: Callable[[], None] | None = None
    """Called when the events are in the state and published, before those of any later record are."""


NO_EXTRAS = TransactionExtras()


class PreconditionFailed(Exception):
    """The precondition of a record did not hold, because something else was recorded first."""


class PendingRecord:
    """The events and extras of one `record` call, which are written together or not at all."""

    __slots__ = ("_resolved", "_waiter", "bodies", "error", "events", "extras", "session_states")

    def __init__(self, events: tuple[AnySessionEvent, ...], extras: TransactionExtras) -> None:
        self.events = events
        self.bodies: list[bytes] = []
        self.session_states: list[SessionState] = []
        self.extras = extras
        self.error: Exception | None = None
        self._resolved = False
        self._waiter: trio.lowlevel.Task | None = None

    def resolve(self, error: Exception | None = None) -> None:
        """Sets the outcome, and resumes the task that waits for it."""
        self.error = error
        self._resolved = True
        if self._waiter:
            trio.lowlevel.reschedule(self._waiter)

    @property
    def is_resolved(self) -> bool:
        return self._resolved

    async def wait(self) -> None:
        """Waits until it is resolved; cannot be cancelled. The store gives every write an outcome.

        A shielded scope around a trio.Event would do the same, but costs 10 µs more for every event of every turn.
        """
        if not self._resolved:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_refuse_abort)

    def raise_error(self) -> None:
        """Raises the error of the outcome, once, if there is one.

        Neither this object nor a frame in the exception's traceback may keep a reference to the exception. Such a
        cycle would keep everything that the callers' frames hold, the whole session, until the next garbage collection.
        """
        error, self.error = self.error, None
        try:
            if error:
                raise error
        finally:
            del error


def _refuse_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class Recorder:
    """The writer of one session's log. `inbox` is the durable queue as it is stored, in order of place."""

    def __init__(
        self,
        session: Session,
        log: Log,
        clock: Clock,
        publish: Callable[[LoggedEvent], None],
        on_state_mismatch: Callable[[BaseException], None],
    ) -> None:
        self.inbox: list[InboxEntry] = []
        self._session = session
        self._log = log
        self._clock = clock
        self._publish = publish
        self._on_state_mismatch = on_state_mismatch
        self._queue: list[PendingRecord] = []
        self._write_in_progress = False
        self._last_idle_time: float | None = None
        """The last time at which no turn was open, on trio's clock."""

    async def record(self, *events: AnySessionEvent, extras: TransactionExtras = NO_EXTRAS) -> None:
        """Records the events; they are durable, applied and published on return. The wait cannot be cancelled.

        Raises InvalidTransition and PreconditionFailed (nothing was written), StorageFull and StorageFailed (nothing
        is durable, no seq is used).
        """
        record = self.submit(*events, extras=extras)
        await record.wait()
        record.raise_error()

    def submit(self, *events: AnySessionEvent, extras: TransactionExtras = NO_EXTRAS) -> PendingRecord:
        """Does the same as `record`, without waiting for the outcome."""
        record = PendingRecord(events, extras)
        self._queue.append(record)
        self._start_next_write()
        return record

    def _start_next_write(self) -> None:
        if self._write_in_progress or not self._queue:
            return
        batch = _Batch(self._session.state, self._clock(), self._elapsed_s())
        deferred: list[PendingRecord] = []
        for record in self._queue:
            if deferred or not batch.has_room_for(record):
                deferred.append(record)
                continue
            try:
                batch.add(record)
            except Exception as error:  # noqa: BLE001 - a refused event, or a bug: raised only in the recording task
                record.resolve(error)
        self._queue = deferred
        if batch.records:
            self._write_in_progress = True
            self._log.submit(batch.build_write(partial(self._on_committed, batch), partial(self._resolve_batch, batch)))

    def _elapsed_s(self) -> float | None:
        """Returns the seconds that the open turn has taken, or None if an earlier process began it.

        The wall clock has no influence on it.
        """
        turn, now = self._session.state.turn, trio.current_time()
        if turn is None:
            self._last_idle_time = now
        return None if self._last_idle_time is None else now - self._last_idle_time

    def _on_committed(self, batch: "_Batch", offset: int) -> None:
        try:
            for record in batch.records:
                for event, body, state in zip(record.events, record.bodies, record.session_states, strict=True):
                    self._session.apply(event, state)
                    seq = self._session.state.last_seq
                    self._publish(LoggedEvent(seq=seq, offset=offset, body=body, decoded=event))
                    offset += 1
                self._update_inbox(record.extras.mutations)
                if record.extras.on_applied:
                    record.extras.on_applied()
        except Exception as bug:  # noqa: BLE001 - events on disk are not in the state: the daemon must stop
            self._on_state_mismatch(bug)
        self._resolve_batch(batch)

    def _update_inbox(self, mutations: tuple[Mutation, ...]) -> None:
        for mutation in mutations:
            match mutation:
                case Enqueue(entry):
                    insort(self.inbox, entry, key=attrgetter("place"))
                case Dequeue(place):
                    self.inbox[:] = [entry for entry in self.inbox if entry.place != place]
                case _:
                    pass

    def _resolve_batch(self, batch: "_Batch", error: Exception | None = None) -> None:
        self._write_in_progress = False
        for record in batch.records:
            record.resolve(error)
        self._start_next_write()


class _Batch:
    """The records of one transaction; each is checked against the state after the ones before it."""

    def __init__(self, session_state: SessionState, ts: float, elapsed_s: float | None) -> None:
        self.records: list[PendingRecord] = []
        self._first_seq = session_state.last_seq + 1
        self._session_state = session_state
        self._ts = ts
        self._elapsed_s = elapsed_s
        self._bodies: list[bytes] = []
        self._mutations: list[Mutation] = []
        self._has_turn_boundary = False

    def has_room_for(self, record: PendingRecord) -> bool:
        """Returns whether the record fits. A write opens or ends at most one turn."""
        return not (self._has_turn_boundary and any(isinstance(event, UserMessage | Done) for event in record.events))

    def add(self, record: PendingRecord) -> None:
        """Adds a record with all its events. Raises InvalidTransition and PreconditionFailed."""
        state = self._session_state
        if record.extras.precondition and not record.extras.precondition(state):
            raise PreconditionFailed
        events: list[AnySessionEvent] = []
        states: list[SessionState] = []
        bodies: list[bytes] = []
        mutations: list[Mutation] = []
        is_boundary = False
        for event in record.events:
            complete_event = fill_derived_fields(state, event, self._ts, self._elapsed_s)
            opens_turn, state = state.turn is None, apply_event(state, complete_event)
            mutations += _mutations_for(complete_event, state.last_seq, opens_turn=opens_turn)
            is_boundary = is_boundary or isinstance(event, UserMessage | Done)
            bodies.append(encode(complete_event))
            events.append(complete_event)
            states.append(state)
        for mutation in record.extras.mutations:
            match mutation:
                case PutKey(key):
                    turn = next((event.turn for event in events if isinstance(event, UserMessage)), None)
                    mutations.append(PutKey(replace(key, turn=turn)))
                case SaveDraft(draft) if not _is_in_progress(draft, state):
                    pass
                case _:
                    mutations.append(mutation)
        record.events, record.bodies, record.session_states = tuple(events), bodies, states
        self.records.append(record)
        self._session_state = state
        self._bodies += bodies
        self._mutations += mutations
        self._has_turn_boundary = self._has_turn_boundary or is_boundary

    def build_write(self, committed: Callable[[int], None], failed: Callable[[Exception], None]) -> Write:
        return Write(
            session=self._session_state.id,
            bodies=self._bodies,
            first_seq=self._first_seq,
            session_state=self._session_state if self._bodies else None,
            mutations=self._mutations,
            committed=committed,
            failed=failed,
        )


def _is_in_progress(draft: Draft, state: SessionState) -> bool:
    """Returns whether the reply of the draft can still go on, in this process or after a restart."""
    turn = state.turn
    return turn is not None and draft.turn == turn.number and (draft.suspended or is_current(turn, draft))


def _mutations_for(event: AnySessionEvent, seq: int, *, opens_turn: bool) -> tuple[Mutation, ...]:
    """Returns the mutations that an event entails: of the span of its turn, and of the draft that it replaces."""
    match event:
        case UserMessage(turn=int(turn)) if opens_turn:
            return (AddTurn(turn, seq),)
        case Done(turn=int(turn)):
            return PutTurnEnd(turn, seq), DropDraft()
        case AssistantMessage() | TurnResumed():
            return (DropDraft(),)
        case _:
            return ()
