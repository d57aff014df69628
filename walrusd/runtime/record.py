"""The one door to a session's log: check → persist → apply → publish.

A session has one transaction under way; what arrives meanwhile joins its next one. The state table refuses
before anything is written, and memory changes only after the disk has: nothing on disk is ever not in the
state, and nothing in the state is ever not on disk.
"""

from collections.abc import Callable

import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_protocol.events import AssistantMessage, Done, Durable, TurnResumed, UserMessage, encode
from walrusd.ports import Clock
from walrusd.runtime.bus import Fact
from walrusd.session.mend import Draft, awaited
from walrusd.session.outline import Outline, advance, stamp
from walrusd.session.session import Session
from walrusd.store.log import Log, Output, Queued, Sent, Write


class Beside(Struct, frozen=True, kw_only=True):
    """What a transaction writes beside the log."""

    enqueue: tuple[Queued, ...] = ()
    dequeue: tuple[int, ...] = ()
    sent: tuple[Sent, ...] = ()
    """Keys; their turn is filled in where a user message is recorded with them."""
    draft: Draft | None = None
    created_with: Sent | None = None
    output: Output | None = None
    only_if: Callable[[Outline], bool] | None = None
    """Asked right before it is written; where it does not hold, nothing is, and the recorder meets Overtaken."""
    applied: Callable[[], None] | None = None
    """Called when its events are in the state and published, before those of any later record are."""


NOTHING = Beside()


class Overtaken(Exception):
    """What was to be recorded no longer fits: something else was recorded first."""


class Recording:
    """What one `record` asked for: all of it happens or none."""

    __slots__ = ("_settled", "_waiter", "beside", "bodies", "error", "events", "outlines")

    def __init__(self, events: tuple[Durable, ...], beside: Beside) -> None:
        self.events = events
        self.bodies: list[bytes] = []
        self.outlines: list[Outline] = []
        self.beside = beside
        self.error: Exception | None = None
        self._settled = False
        self._waiter: trio.lowlevel.Task | None = None

    def settle(self, error: Exception | None = None) -> None:
        self.error = error
        self._settled = True
        if self._waiter:
            trio.lowlevel.reschedule(self._waiter)

    @property
    def is_settled(self) -> bool:
        return self._settled

    async def wait(self) -> None:
        """Until it is settled. The owner of the wait is the store, whose every write has an outcome.

        A shielded scope around an event would say the same, for 10 µs more at every event of every turn.
        """
        if not self._settled:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_not_cancelled)

    def raise_refusal(self) -> None:
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


def _not_cancelled(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class Recorder:
    """Records for one session. `inbox` is the durable queue as it stands, in order of place."""

    def __init__(
        self,
        session: Session,
        log: Log,
        clock: Clock,
        publish: Callable[[Fact], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self.inbox: list[Queued] = []
        self._session = session
        self._log = log
        self._clock = clock
        self._publish = publish
        self._broken = broken
        self._waiting: list[Recording] = []
        self._under_way = False
        self._between_turns: float | None = None
        """When no turn was open for the last time, on the loop's clock."""

    async def record(self, *events: Durable, beside: Beside = NOTHING) -> None:
        """All of it is durable, applied and published when this returns. The wait cannot be cancelled.

        Raises Refused and Overtaken (nothing was written), StorageFull and StorageFailed (nothing is durable, no seq
        is used).
        """
        group = self.submit(*events, beside=beside)
        await group.wait()
        group.raise_refusal()

    def submit(self, *events: Durable, beside: Beside = NOTHING) -> Recording:
        """As `record`, without the wait."""
        group = Recording(events, beside)
        self._waiting.append(group)
        self._begin()
        return group

    def _begin(self) -> None:
        if self._under_way or not self._waiting:
            return
        batch = _Batch(self._session.outline, self._clock(), self._elapsed_s())
        left: list[Recording] = []
        for group in self._waiting:
            if left or not batch.has_room_for(group):
                left.append(group)
                continue
            try:
                batch.add(group)
            except Exception as error:  # noqa: BLE001 - refused, or a bug: raised where it was recorded, and only there
                group.settle(error)
        self._waiting = left
        if batch.groups:
            self._under_way = True
            self._log.submit(batch.write(lambda offset: self._committed(batch, offset), self._failed_with(batch)))

    def _elapsed_s(self) -> float | None:
        """How long the open turn has taken, whatever was done to the time of day; None for one that another process
        began.
        """
        turn, now = self._session.outline.turn, trio.current_time()
        if turn is None:
            self._between_turns = now
        return None if self._between_turns is None else now - self._between_turns

    def _committed(self, batch: "_Batch", offset: int) -> None:
        try:
            for group in batch.groups:
                for event, body, outline in zip(group.events, group.bodies, group.outlines, strict=True):
                    self._session.apply(event, outline)
                    seq = self._session.outline.last_seq
                    self._publish(Fact(seq=seq, offset=offset, body=body, event=event))
                    offset += 1
                self._inbox_after(group.beside)
                if group.beside.applied:
                    group.beside.applied()
        except Exception as bug:  # noqa: BLE001 - what is on disk is not in the state: the daemon must not go on
            self._broken(bug)
        self._settle(batch, None)

    def _inbox_after(self, beside: Beside) -> None:
        if beside.dequeue:
            self.inbox = [queued for queued in self.inbox if queued.place not in beside.dequeue]
        if beside.enqueue:
            self.inbox = sorted([*self.inbox, *beside.enqueue], key=lambda queued: queued.place)

    def _failed_with(self, batch: "_Batch") -> Callable[[Exception], None]:
        return lambda error: self._settle(batch, error)

    def _settle(self, batch: "_Batch", error: Exception | None) -> None:
        self._under_way = False
        for group in batch.groups:
            group.settle(error)
        self._begin()


class _Batch:
    """The groups of one transaction, checked one after the other against the outline they would leave."""

    def __init__(self, outline: Outline, ts: float, elapsed_s: float | None) -> None:
        self.groups: list[Recording] = []
        self.sent: list[Sent] = []
        self._before = outline
        self._outline = outline
        self._ts = ts
        self._elapsed_s = elapsed_s
        self._turns = 0

    def has_room_for(self, group: Recording) -> bool:
        """A write opens at most one turn, whose inbox entry leaves in that write, and has at most one output."""
        if group.beside.output and any(other.beside.output for other in self.groups):
            return False
        return not (self._turns and any(isinstance(event, UserMessage | Done) for event in group.events))

    def add(self, group: Recording) -> None:
        """Take a group whole. Raises Refused and Overtaken."""
        outline = self._outline
        if group.beside.only_if and not group.beside.only_if(outline):
            raise Overtaken
        events: list[Durable] = []
        outlines: list[Outline] = []
        for event in group.events:
            stamped = stamp(outline, event, self._ts, self._elapsed_s)
            outline = advance(outline, stamped)
            events.append(stamped)
            outlines.append(outline)
        group.bodies = [encode(event) for event in events]
        group.events, group.outlines = tuple(events), outlines
        self._outline = outline
        self._turns += any(isinstance(event, UserMessage | Done) for event in events)
        self.groups.append(group)
        turn = next((event.turn for event in events if isinstance(event, UserMessage)), None)
        self.sent += [replace(sent, turn=turn) for sent in group.beside.sent]

    def write(self, committed: Callable[[int], None], failed: Callable[[Exception], None]) -> Write:
        before, after = self._before, self._outline
        besides = [group.beside for group in self.groups]
        bodies = [body for group in self.groups for body in group.bodies]
        write = Write(
            session=after.id,
            outline=after if bodies else None,
            bodies=bodies,
            first_seq=before.last_seq + 1,
            enqueue=[queued for beside in besides for queued in beside.enqueue],
            dequeue=[place for beside in besides for place in beside.dequeue],
            sent=self.sent,
            committed=committed,
            failed=failed,
        )
        for beside in besides:
            if beside.draft and self._is_kept(beside.draft):
                write.draft = beside.draft
            write.created_with = beside.created_with or write.created_with
            write.output = beside.output or write.output
        self._spans(write)
        return write

    def _is_kept(self, draft: Draft) -> bool:
        turn = self._outline.turn
        return turn is not None and draft.turn == turn.number and (draft.suspended or awaited(turn, draft))

    def _spans(self, write: Write) -> None:
        events = (event for group in self.groups for event in group.events)
        for seq, event in enumerate(events, self._before.last_seq + 1):
            if event.turn is None:
                continue
            match event:
                case UserMessage() if self._opens(seq, event.turn):
                    write.turn_opened = (event.turn, seq)
                case Done():
                    write.turn_ended = (event.turn, seq)
                    write.draft = "drop"
                case AssistantMessage() | TurnResumed():
                    write.draft = "drop"
                case _:
                    pass

    def _opens(self, seq: int, turn: int) -> bool:
        before = self._before.turn
        return before is None or before.number != turn
