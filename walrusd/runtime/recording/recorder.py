"""The one door to a session's log: check → persist → apply → publish.

A session has one transaction under way; what arrives meanwhile joins its next one. The state table refuses
before anything is written, and memory changes only after the disk has: nothing on disk is ever not in the
state, and nothing in the state is ever not on disk.
"""

from collections.abc import Callable

import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_protocol.events import AnySessionEvent, AssistantMessage, Done, TurnResumed, UserMessage, encode
from walrusd.ports import Clock
from walrusd.runtime.streams.items import LoggedEvent
from walrusd.session.recovery import Draft, is_current
from walrusd.session.session import Session
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields
from walrusd.store.contract import IdempotencyKey, InboxEntry, Log, StoredOutput, Write


class TransactionExtras(Struct, frozen=True, kw_only=True):
    """What a transaction writes beside the log."""

    enqueue: tuple[InboxEntry, ...] = ()
    dequeue: tuple[int, ...] = ()
    idempotency_keys: tuple[IdempotencyKey, ...] = ()
    """Keys; their turn is filled in where a user message is recorded with them."""
    draft: Draft | None = None
    create_key: IdempotencyKey | None = None
    output: StoredOutput | None = None
    precondition: Callable[[SessionState], bool] | None = None
    """Asked right before it is written; where it does not hold, nothing is, and the recorder meets Overtaken."""
    on_applied: Callable[[], None] | None = None
    """Called when its events are in the state and published, before those of any later record are."""


NO_EXTRAS = TransactionExtras()


class PreconditionFailed(Exception):
    """What was to be recorded no longer fits: something else was recorded first."""


class PendingRecord:
    """What one `record` asked for: all of it happens or none."""

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
        self.error = error
        self._resolved = True
        if self._waiter:
            trio.lowlevel.reschedule(self._waiter)

    @property
    def is_resolved(self) -> bool:
        return self._resolved

    async def wait(self) -> None:
        """Until it is settled. The owner of the wait is the store, whose every write has an outcome.

        A shielded scope around an event would say the same, for 10 µs more at every event of every turn.
        """
        if not self._resolved:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_refuse_abort)

    def raise_error(self) -> None:
        """Raise what came in its way, once.

        Neither this nor a frame that the exception knows may go on knowing the exception: in such a circle would be
        kept, until a collector comes by, all that the frames of the callers hold, and that is the whole session.
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
    """Records for one session. `inbox` is the durable queue as it stands, in order of place."""

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
        """When no turn was open for the last time, on the loop's clock."""

    async def record(self, *events: AnySessionEvent, extras: TransactionExtras = NO_EXTRAS) -> None:
        """All of it is durable, applied and published when this returns. The wait cannot be cancelled.

        Raises Refused and Overtaken (nothing was written), StorageFull and StorageFailed (nothing is durable, no seq
        is used).
        """
        group = self.submit(*events, extras=extras)
        await group.wait()
        group.raise_error()

    def submit(self, *events: AnySessionEvent, extras: TransactionExtras = NO_EXTRAS) -> PendingRecord:
        """As `record`, without the wait."""
        group = PendingRecord(events, extras)
        self._queue.append(group)
        self._start_next_write()
        return group

    def _start_next_write(self) -> None:
        if self._write_in_progress or not self._queue:
            return
        batch = _Batch(self._session.state, self._clock(), self._elapsed_s())
        left: list[PendingRecord] = []
        for group in self._queue:
            if left or not batch.has_room_for(group):
                left.append(group)
                continue
            try:
                batch.add(group)
            except Exception as error:  # noqa: BLE001 - refused, or a bug: raised where it was recorded, and only there
                group.resolve(error)
        self._queue = left
        if batch.records:
            self._write_in_progress = True
            self._log.submit(
                batch.build_write(lambda offset: self._on_committed(batch, offset), self._failure_callback(batch))
            )

    def _elapsed_s(self) -> float | None:
        """How long the open turn has taken, whatever was done to the time of day; None for one that another process
        began.
        """
        turn, now = self._session.state.turn, trio.current_time()
        if turn is None:
            self._last_idle_time = now
        return None if self._last_idle_time is None else now - self._last_idle_time

    def _on_committed(self, batch: "_Batch", offset: int) -> None:
        try:
            for group in batch.records:
                for event, body, outline in zip(group.events, group.bodies, group.session_states, strict=True):
                    self._session.apply(event, outline)
                    seq = self._session.state.last_seq
                    self._publish(LoggedEvent(seq=seq, offset=offset, body=body, event=event))
                    offset += 1
                self._update_inbox(group.extras)
                if group.extras.on_applied:
                    group.extras.on_applied()
        except Exception as bug:  # noqa: BLE001 - what is on disk is not in the state: the daemon must not go on
            self._on_state_mismatch(bug)
        self._resolve_batch(batch, None)

    def _update_inbox(self, extras: TransactionExtras) -> None:
        if extras.dequeue:
            self.inbox = [queued for queued in self.inbox if queued.place not in extras.dequeue]
        if extras.enqueue:
            self.inbox = sorted([*self.inbox, *extras.enqueue], key=lambda queued: queued.place)

    def _failure_callback(self, batch: "_Batch") -> Callable[[Exception], None]:
        return lambda error: self._resolve_batch(batch, error)

    def _resolve_batch(self, batch: "_Batch", error: Exception | None) -> None:
        self._write_in_progress = False
        for group in batch.records:
            group.resolve(error)
        self._start_next_write()


class _Batch:
    """The groups of one transaction, checked one after the other against the outline they would leave."""

    def __init__(self, session_state: SessionState, ts: float, elapsed_s: float | None) -> None:
        self.records: list[PendingRecord] = []
        self.idempotency_keys: list[IdempotencyKey] = []
        self._state_before = session_state
        self._session_state = session_state
        self._ts = ts
        self._elapsed_s = elapsed_s
        self._turn_boundaries = 0

    def has_room_for(self, record: PendingRecord) -> bool:
        """A write opens at most one turn, whose inbox entry leaves in that write, and has at most one output."""
        if record.extras.output and any(other.extras.output for other in self.records):
            return False
        return not (self._turn_boundaries and any(isinstance(event, UserMessage | Done) for event in record.events))

    def add(self, record: PendingRecord) -> None:
        """Take a group whole. Raises Refused and Overtaken."""
        outline = self._session_state
        if record.extras.precondition and not record.extras.precondition(outline):
            raise PreconditionFailed
        events: list[AnySessionEvent] = []
        outlines: list[SessionState] = []
        for event in record.events:
            stamped = fill_derived_fields(outline, event, self._ts, self._elapsed_s)
            outline = apply_event(outline, stamped)
            events.append(stamped)
            outlines.append(outline)
        record.bodies = [encode(event) for event in events]
        record.events, record.session_states = tuple(events), outlines
        self._session_state = outline
        self._turn_boundaries += any(isinstance(event, UserMessage | Done) for event in events)
        self.records.append(record)
        turn = next((event.turn for event in events if isinstance(event, UserMessage)), None)
        self.idempotency_keys += [replace(sent, turn=turn) for sent in record.extras.idempotency_keys]

    def build_write(self, committed: Callable[[int], None], failed: Callable[[Exception], None]) -> Write:
        before, after = self._state_before, self._session_state
        besides = [group.extras for group in self.records]
        bodies = [body for group in self.records for body in group.bodies]
        write = Write(
            session=after.id,
            session_state=after if bodies else None,
            bodies=bodies,
            first_seq=before.last_seq + 1,
            enqueue=[queued for beside in besides for queued in beside.enqueue],
            dequeue=[place for beside in besides for place in beside.dequeue],
            idempotency_keys=self.idempotency_keys,
            committed=committed,
            failed=failed,
        )
        for beside in besides:
            if beside.draft and self._is_draft_current(beside.draft):
                write.draft = beside.draft
            write.create_key = beside.create_key or write.create_key
            write.output = beside.output or write.output
        self._set_turn_span(write)
        return write

    def _is_draft_current(self, draft: Draft) -> bool:
        turn = self._session_state.turn
        return turn is not None and draft.turn == turn.number and (draft.suspended or is_current(turn, draft))

    def _set_turn_span(self, write: Write) -> None:
        events = (event for group in self.records for event in group.events)
        for seq, event in enumerate(events, self._state_before.last_seq + 1):
            if event.turn is None:
                continue
            match event:
                case UserMessage() if self._opens_turn(seq, event.turn):
                    write.turn_opened = (event.turn, seq)
                case Done():
                    write.turn_ended = (event.turn, seq)
                    write.draft = "drop"
                case AssistantMessage() | TurnResumed():
                    write.draft = "drop"
                case _:
                    pass

    def _opens_turn(self, seq: int, turn: int) -> bool:
        before = self._state_before.turn
        return before is None or before.number != turn
