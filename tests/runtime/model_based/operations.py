"""The operations of a scenario, as values. strategies.py makes hypothesis build scenarios of them.

A scenario is a list of groups. The operations of a group are started together, and trio chooses their order; then the
test waits until everything is idle and checks it.
"""

from typing import Literal

from msgspec import Struct

from walrus_protocol.content import WhenBusy
from walrusd.session.recovery import OnRestart


class Create(Struct, frozen=True):
    key: str | None


class Send(Struct, frozen=True):
    """`session` is an index into the existing sessions, modulo their number, as in all operations.

    `other`: with another text than the one that belongs to the key.
    """

    session: int
    when_busy: WhenBusy
    key: str | None
    other: bool
    timeout_s: float | None
    stream: bool


class Interrupt(Struct, frozen=True):
    session: int


class Close(Struct, frozen=True):
    session: int
    force: bool


class Resume(Struct, frozen=True):
    """Resumes a session by hand."""

    session: int


class Fork(Struct, frozen=True):
    """`at` is an index into the existing seqs and one more, modulo their number; None is the end."""

    session: int
    at: int | None


class Rewind(Struct, frozen=True):
    session: int
    at: int


class MakeCheckpoint(Struct, frozen=True):
    session: int
    name: str


class ReadHistory(Struct, frozen=True):
    """Reads the whole conversation."""

    session: int


class Export(Struct, frozen=True):
    session: int


class Import(Struct, frozen=True):
    """Imports one of the documents that were exported, in this run or before."""

    document: int


class ExpireSessions(Struct, frozen=True):
    """Expires sessions closed for longer than `keep_s`; with `over_quota`, the one closed first.

    Without `sweeps` no sweep deletes their events from then on.
    """

    keep_s: float
    over_quota: bool
    sweeps: bool


class Sweep(Struct, frozen=True):
    pass


class ToggleSubscriber(Struct, frozen=True):
    """Subscribes to the whole daemon, or unsubscribes if it is subscribed.

    A new subscriber starts after any offset, a returning one after the last offset that it received. A slow one reads
    only at a `PollIdleReaders`.
    """

    client: int
    since: int | None
    slow: bool


class SetMaxIdle(Struct, frozen=True):
    """Sets how long unused sessions stay in memory."""

    idle_s: float


class AttachReader(Struct, frozen=True):
    """Starts a reader after any seq of the session. An idle one reads only at a `PollIdleReaders`."""

    session: int
    since: int
    deltas: bool
    idle: bool


class PollIdleReaders(Struct, frozen=True):
    limit: int


class CancelRequest(Struct, frozen=True):
    """Cancels an open request: the wait ends, not the turn."""

    client: int


class ModelAction(Struct, frozen=True):
    """Gives an action to one of the model calls that wait for one."""

    call: int
    action: Literal["text chunk", "thinking chunk", "answer", "empty answer", "call tools", "fail", "crash"]


class ToolAction(Struct, frozen=True):
    """Gives an action to one of the running tool calls."""

    call: int
    action: Literal["return", "crash"]


class AnswerAutomatically(Struct, frozen=True):
    """Lets the model and the tools answer by themselves until this group is finished."""

    action: Literal["answer", "call tools"] = "answer"


class HoldWrites(Struct, frozen=True):
    """Makes the store slow: writes do not reach the log, or reach it without being reported.

    `steps`, as in all operations: the number of scheduler steps after the operations of the group have started.
    """

    when: Literal["before", "after"]
    steps: int


class ReleaseWrites(Struct, frozen=True):
    pass


class FailWrites(Struct, frozen=True):
    kind: Literal["storage_full", "storage_failed"]
    steps: int


class RepairStore(Struct, frozen=True):
    pass


class AdvanceTime(Struct, frozen=True):
    seconds: float


class YieldToOthers(Struct, frozen=True):
    """Waits for this many scheduler steps before the next operation of the group starts."""

    steps: int


class Restart(Struct, frozen=True):
    """`on_restart`: what the next run does with open turns. `failing`: its store fails."""

    grace_s: float
    failing: bool
    on_restart: OnRestart = "continue"


class PowerCut(Struct, frozen=True):
    """`after_s`: additional wait before the cut, because the work of threads is not counted in steps."""

    failing: bool
    steps: int
    on_restart: OnRestart = "continue"
    after_s: float = 0.0


HistoryOperation = Fork | Rewind | MakeCheckpoint | ReadHistory
SessionOperation = HistoryOperation | Send | Interrupt | Close | Resume | Export | AttachReader
"""Operations on one session."""
Operation = (
    SessionOperation
    | Create
    | Import
    | ExpireSessions
    | Sweep
    | SetMaxIdle
    | PollIdleReaders
    | ToggleSubscriber
    | CancelRequest
    | ModelAction
    | ToolAction
    | AnswerAutomatically
    | HoldWrites
    | ReleaseWrites
    | FailWrites
    | RepairStore
    | AdvanceTime
    | YieldToOthers
    | Restart
    | PowerCut
)
