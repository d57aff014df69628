"""What the machine may be told to do, as values: machine_draws.py has hypothesis make stories of them.

A story is a list of moments. The orders of one moment are carried out at once, in an order that is trio's to choose;
then the machine lets everything come to rest and checks.
"""

from typing import Literal

from msgspec import Struct

from walrus_protocol.content import WhenBusy
from walrusd.session.recovery import OnRestart


class Create(Struct, frozen=True):
    key: str | None


class Send(Struct, frozen=True):
    """`session` and its like count those there are, round and round. `other`: with another text than the key's own."""

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
    """Somebody has the agent go on by hand."""

    session: int


class Fork(Struct, frozen=True):
    """`at` counts the seqs that there are and one that is not, round and round; without it, from the end."""

    session: int
    at: int | None


class Rewind(Struct, frozen=True):
    session: int
    at: int


class MakeCheckpoint(Struct, frozen=True):
    session: int
    name: str


class ReadHistory(Struct, frozen=True):
    """Somebody looks at the whole conversation."""

    session: int


class Export(Struct, frozen=True):
    session: int


class Import(Struct, frozen=True):
    """Of one of the documents that were exported, in this life or before."""

    document: int


class ExpireSessions(Struct, frozen=True):
    """Sessions go that were closed for longer than `keep_s`; or, for want of `room`, the one closed first.

    Without `sweeps` nobody finds the time, from then on, to throw away their events.
    """

    keep_s: float
    over_quota: bool
    sweeps: bool


class Sweep(Struct, frozen=True):
    pass


class ToggleSubscriber(Struct, frozen=True):
    """One who follows the whole daemon comes: a new one behind any offset there is, one who was here before behind
    the last that he saw. One who is here goes. A slow one takes what there is when somebody is to `Look`.
    """

    client: int
    since: int | None
    slow: bool


class SetMaxIdle(Struct, frozen=True):
    """So long, and no longer, sessions stay in memory that nobody uses."""

    idle_s: float


class AttachReader(Struct, frozen=True):
    """A reader behind any seq there is. An idle one looks only when its session is asked to `Look`."""

    session: int
    since: int
    deltas: bool
    idle: bool


class PollIdleReaders(Struct, frozen=True):
    limit: int


class CancelRequest(Struct, frozen=True):
    """A client goes away: the wait ends, not the turn."""

    client: int


class ModelAction(Struct, frozen=True):
    """To one of the model calls that wait for a word."""

    call: int
    action: Literal["say", "think", "answer", "say nothing", "call tools", "fail", "crash"]


class ToolAction(Struct, frozen=True):
    """To one of the tool calls under way."""

    call: int
    action: Literal["return", "crash"]


class AnswerAutomatically(Struct, frozen=True):
    """The model and the tools speak by themselves until this moment has come to rest."""

    action: Literal["answer", "call tools"] = "answer"


class HoldWrites(Struct, frozen=True):
    """The store is slow: what is written does not get there, or does while nobody is told.

    As with all `steps`: so many of the scheduler after the orders of its moment have begun.
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
    """So many steps of the scheduler, before the next order of its moment is given."""

    steps: int


class Restart(Struct, frozen=True):
    """`on_restart`: what the next life does with the turns that this one leaves open."""

    grace_s: float
    failing: bool
    on_restart: OnRestart = "continue"


class PowerCut(Struct, frozen=True):
    """`after_s`: what a thread does is not counted in steps."""

    failing: bool
    steps: int
    on_restart: OnRestart = "continue"
    after_s: float = 0.0


HistoryOperation = Fork | Rewind | MakeCheckpoint | ReadHistory
SessionOperation = HistoryOperation | Send | Interrupt | Close | Resume | Export | AttachReader
"""Something of a session."""
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
