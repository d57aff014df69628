"""The durable events of a session: the rows of its log."""

from typing import Literal

from msgspec import Struct

from walrus_protocol.content import Content, Finish, MessageKind, Outcome, StopReason, ToolCall, TurnError, Usage
from walrus_protocol.events.event import Event


class Parent(Struct, frozen=True):
    """The point of the parent session that a fork continues from, and the number of inherited messages."""

    session: int
    seq: int
    messages: int = 0


class ProcessGroupId(Struct, frozen=True):
    """A process group, distinguishable from a later one with the same number by `start` and `boot`."""

    pgid: int
    start: int
    boot: str


class SessionCreated(Event, frozen=True, kw_only=True):
    agent: str
    created_by: str = ""
    title: str = ""
    parent: Parent | None = None


class UserMessage(Event, frozen=True, kw_only=True):
    content: Content
    sender: str = ""
    key: str | None = None
    kind: MessageKind = "message"
    timeout_s: float | None = None
    """Seconds from the start of the turn that this message opens, after which the turn is interrupted."""


class AssistantMessage(Event, frozen=True, kw_only=True):
    round: int
    content: Content = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: Finish = "stop"
    model: str = ""
    provider: str = ""
    usage: Usage = Usage()
    cost_usd: float | None = None
    duration_ms: int = 0
    opaque: dict[str, object] | None = None


class ToolCallsStart(Event, frozen=True, kw_only=True):
    calls: tuple[ToolCall, ...]


class ToolStarted(Event, frozen=True, kw_only=True):
    """The intent to run a tool; durable before the tool runs."""

    call_id: str
    name: str
    attempt: int = 1
    process: ProcessGroupId | None = None


class ToolResult(Event, frozen=True, kw_only=True):
    """The outcome of a call. `gate` and `rule` name what refused it; `bytes` is the whole output's size."""

    call_id: str
    name: str
    output: str
    is_error: bool = False
    outcome: Outcome = "ok"
    gate: str | None = None
    rule: str | None = None
    truncated: bool = False
    bytes: int = 0
    ref: str | None = None
    duration_ms: int = 0


class ToolCallsComplete(Event, frozen=True, kw_only=True):
    """The end of a round with calls. `messages` has the same meaning as in `done`."""

    count: int
    messages: int | None = None


class InterruptRequested(Event, frozen=True, kw_only=True):
    by: str = ""
    reason: Literal["user", "timeout", "close", "shutdown"] = "user"


class TurnResumed(Event, frozen=True, kw_only=True):
    """A turn continues that the end of the daemon had cut off.

    `attempt` counts the starts of the turn, from 1. A clean shutdown does not raise it; a completed round resets it.
    """

    attempt: int = 1
    reason: Literal["shutdown", "crash"] = "crash"


class CheckpointCreated(Event, frozen=True, kw_only=True):
    """A name for the point `at`; the latest use of a name counts."""

    name: str
    at: int


class Rewound(Event, frozen=True, kw_only=True):
    """From here on the model sees the `messages` messages that it saw at `to`. Nothing is erased."""

    to: int
    messages: int = 0


class Done(Event, frozen=True, kw_only=True):
    """The end of a turn; each turn has exactly one. `text` is the final answer, "" if there is none.

    `messages` is the session's number of messages then; null in logs of older versions, which did not count them here.
    """

    stop_reason: StopReason
    error: TurnError | None = None
    text: str = ""
    rounds: int = 0
    usage: Usage = Usage()
    cost_usd: float | None = 0.0
    duration_ms: int = 0
    messages: int | None = None


class SessionClosed(Event, frozen=True, kw_only=True):
    by: str = ""


AnySessionEvent = (
    SessionCreated
    | UserMessage
    | AssistantMessage
    | ToolCallsStart
    | ToolStarted
    | ToolResult
    | ToolCallsComplete
    | InterruptRequested
    | TurnResumed
    | CheckpointCreated
    | Rewound
    | Done
    | SessionClosed
)
