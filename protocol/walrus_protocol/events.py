"""Every event. The rows of the log and the bodies of the stream are these same types.

A row is an event's JSON without `seq` and `offset`; `spliced` puts these in when it is sent, so that a
replay decodes nothing. Live events have `"live": true` and neither seq nor offset.
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
from walrus_protocol.json import BadJson, Decoder


def _to_snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Event(Struct, frozen=True, kw_only=True, tag_field="type", tag=_to_snake_case):
    """What all events have. `ts` is unix seconds; `turn` is null outside a turn."""

    seq: int | UnsetType | None = UNSET
    offset: int | UnsetType = UNSET
    ts: float = 0.0
    session: int | None = None
    turn: int | None = None


class Parent(Struct, frozen=True):
    """Where a forked session left its parent, and how many messages it has from there."""

    session: int
    seq: int
    messages: int = 0


class ProcessGroupId(Struct, frozen=True):
    """A process group that can be told from a later one with the same number."""

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
    """Of the turn that it opens, from its start."""


class MessageQueued(Event, frozen=True, kw_only=True):
    live: bool = True
    kind: MessageKind = "message"
    sender: str = ""
    position: int = 0


class TextDelta(Event, frozen=True, kw_only=True):
    """`at` counts the code points of this round's text said before."""

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
    """The intent: durable before the tool runs."""

    call_id: str
    name: str
    attempt: int = 1
    process: ProcessGroupId | None = None


class RunningOutput(Event, frozen=True, kw_only=True, tag="tool_output"):
    """What a long tool has said since the last of these; the result has it whole, or says where the rest is."""

    live: bool = True
    call_id: str
    text: str


class ToolResult(Event, frozen=True, kw_only=True):
    """The outcome. `gate` and `rule` say what refused; `bytes` is the size of the whole output."""

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
    """The end of a round with calls. `messages` as in `done`."""

    count: int
    messages: int | None = None


class InterruptRequested(Event, frozen=True, kw_only=True):
    by: str = ""
    reason: Literal["user", "timeout", "close", "shutdown"] = "user"


class TurnResumed(Event, frozen=True, kw_only=True):
    """A turn that the end of the daemon had cut off goes on.

    `attempt` counts the times it was begun, from 1: an orderly stop adds nothing to it, and a completed round makes it
    1 again.
    """

    attempt: int = 1
    reason: Literal["shutdown", "crash"] = "crash"


class CheckpointCreated(Event, frozen=True, kw_only=True):
    """A name for the point `at`; the latest use of a name counts."""

    name: str
    at: int


class Rewound(Event, frozen=True, kw_only=True):
    """What the model sees is from here on what it saw at `to`: so many messages. Nothing is erased."""

    to: int
    messages: int = 0


class Done(Event, frozen=True, kw_only=True):
    """The end of a turn; there is exactly one. `text` is the final answer, "" if there is none.

    `messages` is how many the session has by then, null in a log that was written before they were counted here.
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
    """The turn that a tick became."""

    session: int
    turn: int
    cost_usd: float | None = None


class Tick(Event, frozen=True, kw_only=True):
    """What became of one firing of a heartbeat. A fact of the daemon: `session`, `turn` and `seq` are null.

    `slot` is when it was due, `count` how many slots it stands for (only what was missed while nobody was there to
    tick is told together, `slot` being the first). `reason` says why it did not run, or how it failed. `news` is false
    where there is nothing that a person need read.
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
    """walrus.toml and the prompts were read anew. A fact of the daemon: `session`, `turn` and `seq` are null."""

    changed: tuple[str, ...] = ()
    """The keys that are in force as they are now."""
    at_restart: tuple[str, ...] = ()
    """The keys that have changed and take effect when walrusd is started anew."""


class SessionsExpired(Event, frozen=True, kw_only=True):
    """Closed sessions were thrown away. A fact of the daemon: `session`, `turn` and `seq` are null.

    `reason`: they were closed for longer than is kept, there was no room, or somebody asked for it.
    """

    sessions: tuple[int, ...]
    reason: ExpiryReason = "retention"


class SessionImported(Event, frozen=True, kw_only=True):
    """A session was made of a document. A fact of the daemon: `session`, `turn` and `seq` are null.

    `imported` is its id. Its events have offsets below this one's, among those of others: who reads the stream as it
    comes has passed them when the session is there, and is told by this that it is.
    """

    imported: int
    agent: str


class StateChanged(Event, frozen=True, kw_only=True):
    live: bool = True
    state: State


class Lagged(Event, frozen=True, kw_only=True):
    """`dropped` live events did not reach this reader, who was slow; facts are never dropped."""

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
"""Durable too, of the daemon and of no session."""
AnyLiveEvent = MessageQueued | TextDelta | ThinkingDelta | RunningOutput | StateChanged | Lagged
AnyEvent = AnySessionEvent | AnyDaemonEvent | AnyLiveEvent


class NewerEvent(Struct, frozen=True, kw_only=True):
    """An event of a type that this version does not know: what all events have, and the whole body."""

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
    """The word that stands for a class of events in their `type`."""
    tag = event_class.__struct_config__.tag
    assert isinstance(tag, str), "every event has a tag that is made from its name"
    return tag


def decode_row(body: bytes) -> AnySessionEvent:
    """A row of the log. Raises BadJson for what is no durable event of this version."""
    return _session_event_decoder.decode(body)


def decode(body: bytes | msgspec.Raw) -> AnyEvent | NewerEvent:
    """An event from the wire; one of a type newer than this program comes as NewerEvent. Raises BadJson."""
    try:
        return _any_event_decoder.decode(body)
    except BadJson as error:
        if error.reason != "schema":
            raise
        fields = _generic_decoder.decode(body)
        head = {name: fields.get(name) for name in ("type", "seq", "offset", "session", "turn")}
        return msgspec.convert({**head, "ts": fields.get("ts") or 0.0, "body": fields}, NewerEvent)


def insert_position(body: bytes, seq: int | None, offset: int) -> bytes:
    """A row as it is sent: the same JSON object with seq and offset in front."""
    shown = b"null" if seq is None else b"%d" % seq
    return b'{"seq":%s,"offset":%d,%s' % (shown, offset, body[1:])
