"""The types of all events: those in the log and those that streams send.

A row of the log is an event's JSON without `seq` and `offset`. `insert_position` adds these when the row is sent, so
that a replay decodes nothing. Live events have `"live": true`, and neither seq nor offset.
"""

import re
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from walrus_protocol.content import (
    Content,
    ExpiryReason,
    Finish,
    MessageKind,
    Outcome,
    State,
    StopReason,
    TickOutcome,
    TickTrigger,
    ToolCall,
    TurnError,
    Usage,
)
from walrus_protocol.json import BadJson, Decoder, convert


def _to_snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Event(Struct, frozen=True, kw_only=True, tag_field="type", tag=_to_snake_case):
    """The fields of all events. `ts` is in Unix seconds; `turn` is null outside a turn."""

    seq: int | UnsetType | None = UNSET
    offset: int | UnsetType = UNSET
    ts: float = 0.0
    session: int | None = None
    turn: int | None = None


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


class MessageQueued(Event, frozen=True, kw_only=True):
    live: bool = True
    kind: MessageKind = "message"
    sender: str = ""
    position: int = 0


class TextDelta(Event, frozen=True, kw_only=True):
    """A new piece of the reply's text. `at` is the number of code points of the round's text before it."""

    live: bool = True
    text: str
    round: int
    at: int


class ThinkingDelta(Event, frozen=True, kw_only=True):
    live: bool = True
    text: str
    round: int
    at: int


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


class RunningOutput(Event, frozen=True, kw_only=True, tag="tool_output"):
    """New output of a running process. The `tool_result` has all of it, or refers to the rest by `ref`."""

    live: bool = True
    call_id: str
    text: str


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


class TurnRef(Struct, frozen=True, kw_only=True):
    """The turn that a tick started."""

    session: int
    turn: int
    cost_usd: float | None = None


class Tick(Event, frozen=True, kw_only=True):
    """The outcome of one tick of a heartbeat. A daemon event: `session`, `turn` and `seq` are null.

    `slot` is the time when it was due. `count` is the number of slots; it is over 1 only for slots missed while walrusd
    was off, and then `slot` is the first. `reason` is why it did not run, or how it failed. `news` is false if
    there is nothing that a person needs to read.
    """

    tick: int
    schedule: str
    agent: str
    slot: float
    by: TickTrigger = "clock"
    outcome: TickOutcome
    reason: str = ""
    count: int = 1
    ran: TurnRef | None = None
    text: str = ""
    news: bool = False
    started_at: float | None = None
    ended_at: float | None = None


class ConfigReloaded(Event, frozen=True, kw_only=True):
    """walrus.toml and the prompts were reloaded. A daemon event: `session`, `turn` and `seq` are null."""

    changed: tuple[str, ...] = ()
    """The changed keys that are now in force."""
    at_restart: tuple[str, ...] = ()
    """The changed keys that take effect when walrusd is restarted."""


class SessionsExpired(Event, frozen=True, kw_only=True):
    """Closed sessions were deleted. A daemon event: `session`, `turn` and `seq` are null.

    `reason`: they were closed longer than `retain_closed_days`, the database was over its limit, or `gc` was called.
    """

    sessions: tuple[int, ...]
    reason: ExpiryReason = "retention"


class SessionImported(Event, frozen=True, kw_only=True):
    """A session was imported. A daemon event: `session`, `turn` and `seq` are null. `imported` is its id.

    The session's events have lower offsets than this one. Subscribers have already passed these offsets when the
    session appears; this event announces it to them.
    """

    imported: int
    agent: str


class StateChanged(Event, frozen=True, kw_only=True):
    live: bool = True
    state: State


class Lagged(Event, frozen=True, kw_only=True):
    """`dropped` live events were not sent to this slow reader; logged events are never dropped."""

    live: bool = True
    dropped: int


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
AnyDaemonEvent = Tick | ConfigReloaded | SessionsExpired | SessionImported
"""Durable events of the daemon; they belong to no session."""
AnyLiveEvent = MessageQueued | TextDelta | ThinkingDelta | RunningOutput | StateChanged | Lagged
AnyEvent = AnySessionEvent | AnyDaemonEvent | AnyLiveEvent


class NewerEvent(Struct, frozen=True, kw_only=True):
    """An event of a type that this version does not know: the common fields, and the whole body."""

    type: str = ""
    seq: int | None = None
    offset: int | None = None
    ts: float = 0.0
    session: int | None = None
    turn: int | None = None
    body: dict[str, object] = {}


_encoder = msgspec.json.Encoder()
_session_event_decoder: Decoder[AnySessionEvent] = Decoder(AnySessionEvent)
_any_event_decoder: Decoder[AnyEvent] = Decoder(AnyEvent)
_generic_decoder = Decoder(dict[str, object])


def encode(event: AnyEvent) -> bytes:
    return _encoder.encode(event)


def event_type_of(event_class: type[Event]) -> str:
    """Returns the `type` of a class of events."""
    tag = event_class.__struct_config__.tag
    assert isinstance(tag, str), "every event's tag is made from its class name"
    return tag


def decode_row(body: bytes) -> AnySessionEvent:
    """Returns the event of a row of the log. Raises BadJson if it is not a session event of this version."""
    return _session_event_decoder.decode(body)


def decode(body: bytes | msgspec.Raw) -> AnyEvent | NewerEvent:
    """Returns an event from the wire; it is a NewerEvent if its type is unknown. Raises BadJson."""
    try:
        return _any_event_decoder.decode(body)
    except BadJson as error:
        if error.reason != "schema":
            raise
        fields = _generic_decoder.decode(body)
        head = {name: fields.get(name) for name in ("type", "seq", "offset", "session", "turn")}
        return convert({**head, "ts": fields.get("ts") or 0.0, "body": fields}, NewerEvent)


def insert_position(body: bytes, seq: int | None, offset: int) -> bytes:
    """Returns a row as it is sent: the same JSON object, with seq and offset in front."""
    encoded_seq = b"null" if seq is None else b"%d" % seq
    return b'{"seq":%s,"offset":%d,%s' % (encoded_seq, offset, body[1:])
