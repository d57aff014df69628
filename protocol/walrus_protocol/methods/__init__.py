"""All methods of the protocol: the Structs of params and results, and METHODS, the table of both.

The server refuses unknown params and names the most similar one; clients skip unknown fields of results.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from walrus_protocol.content import (
    Message,
    State,
    StopReason,
    TurnError,
    Usage,
    WhenBusy,
)
from walrus_protocol.methods.daemon import (
    GcParams,
    GcResult,
    Hello,
    HelloParams,
    MetricsParams,
    MetricsResult,
    Pong,
    ReloadResult,
    ShutdownResult,
    Status,
)
from walrus_protocol.methods.export_import import ExportParams, ExportResult, ImportParams, ImportResult
from walrus_protocol.methods.fork_rewind import (
    CheckpointList,
    CheckpointListParams,
    CheckpointParams,
    CheckpointResult,
    ForkParams,
    ForkResult,
    RewindParams,
    RewindResult,
)
from walrus_protocol.methods.schedule import (
    ScheduleInfo,
    ScheduleList,
    ScheduleParams,
    TickHistory,
    TickHistoryParams,
    TickInfo,
)
from walrus_protocol.methods.search import Hits, SearchParams
from walrus_protocol.methods.subscribe import SubscribeParams, SubscribeResult
from walrus_protocol.param_types import (
    Id,
    Key,
    Limit,
    NonEmptyContent,
    NoParams,
    Params,
    Seq,
    ShortText,
    TimeoutSeconds,
)


class AgentInfo(Struct, frozen=True, kw_only=True):
    name: str
    description: str
    model: str
    max_iterations: int
    thinking: bool = False
    tools: tuple[str, ...] = ()
    """The names of the tools that the agent is offered now."""
    workspace: str = ""
    system_prompt: str = ""


class AgentList(Struct, frozen=True, kw_only=True):
    agents: tuple[AgentInfo, ...]


class AgentParams(Params, frozen=True, kw_only=True):
    agent: str


class AgentRunParams(Params, frozen=True, kw_only=True):
    agent: str
    content: NonEmptyContent
    sender: ShortText = ""
    created_by: ShortText = ""
    title: ShortText = ""
    timeout_s: TimeoutSeconds | None = None


class CreateParams(Params, frozen=True, kw_only=True):
    agent: str
    created_by: ShortText = ""
    title: ShortText = ""
    key: Key | None = None


class CreateResult(Struct, frozen=True, kw_only=True):
    session: int


class SessionParams(Params, frozen=True, kw_only=True):
    session: Id


class ListParams(Params, frozen=True, kw_only=True):
    agent: str | None = None
    state: State | None = None
    include_closed: bool = False
    limit: Limit = 50
    cursor: str | None = None


class ParentInfo(Struct, frozen=True, kw_only=True):
    session: int
    seq: int


class SessionInfo(Struct, frozen=True, kw_only=True):
    """A session as lists show it.

    `messages` counts the messages of users and assistants that the model sees.

    `cost_usd` is null if the price of any call is unknown. `error` is the last turn's error in the state `error`.
    """

    id: int
    agent: str
    created_by: str = ""
    title: str = ""
    state: State = "idle"
    queued: int = 0
    messages: int = 0
    created_at: float = 0.0
    updated_at: float = 0.0
    last_seq: int = 0
    parent: ParentInfo | None = None
    usage: Usage = Usage()
    cost_usd: float | None = 0.0
    error: TurnError | None = None
    open_approvals: tuple[int, ...] = ()
    open_questions: tuple[int, ...] = ()


class SessionList(Struct, frozen=True, kw_only=True):
    sessions: tuple[SessionInfo, ...]
    cursor: str | None = None


class SendParams(Params, frozen=True, kw_only=True):
    session: Id
    content: NonEmptyContent
    sender: ShortText = ""
    key: Key | None = None
    when_busy: WhenBusy = "queue"
    timeout_s: TimeoutSeconds | None = None


class TurnResult(Struct, frozen=True, kw_only=True):
    """The result of a turn, sent when its `done` is durable.

    `first_seq` and `last_seq` are the seqs of its user message and of its `done`.
    """

    session: int
    turn: int
    text: str
    stop_reason: StopReason
    error: TurnError | None = None
    rounds: int = 0
    usage: Usage = Usage()
    cost_usd: float | None = None
    first_seq: int = 0
    last_seq: int = 0


class AttachParams(Params, frozen=True, kw_only=True):
    session: Id
    since: Seq = 0
    follow: bool = True
    deltas: bool = True


class AttachResult(Struct, frozen=True, kw_only=True):
    last_seq: int
    reason: Literal["end", "closed"]


class WaitParams(Params, frozen=True, kw_only=True):
    session: Id
    states: Annotated[tuple[State, ...], Meta(min_length=1)]
    timeout_s: TimeoutSeconds | None = None


class WaitResult(Struct, frozen=True, kw_only=True):
    state: State


class HistoryParams(Params, frozen=True, kw_only=True):
    session: Id
    limit: Limit = 50
    cursor: str | None = None


class History(Struct, frozen=True, kw_only=True):
    messages: tuple[Message, ...]
    cursor: str | None = None


class InterruptResult(Struct, frozen=True, kw_only=True):
    interrupted: bool
    turn: int | None = None


class CloseParams(Params, frozen=True, kw_only=True):
    session: Id
    force: bool = False


class CloseResult(Struct, frozen=True, kw_only=True):
    closed: bool


class OutputParams(Params, frozen=True, kw_only=True):
    session: Id
    ref: ShortText
    offset: Seq = 0


class OutputText(Struct, frozen=True, kw_only=True):
    """A page of a tool's whole output; `next` is the offset of the next page, null at the end."""

    text: str
    next: int | None = None


class ConfigResult(Struct, frozen=True, kw_only=True):
    """The configuration in force as JSON, with secrets masked."""

    path: str
    config: dict[str, object]
    warnings: tuple[str, ...] = ()


class ConfigCheckResult(Struct, frozen=True, kw_only=True):
    """The outcome of loading the files as they are now."""

    ok: bool
    path: str
    message: str = ""
    hint: str = ""
    warnings: tuple[str, ...] = ()


class MethodInfo(Struct, frozen=True, kw_only=True):
    name: str
    params: dict[str, object]
    result: dict[str, object]


class Discovery(Struct, frozen=True, kw_only=True):
    protocol: int
    methods: tuple[MethodInfo, ...]
    definitions: dict[str, object]


METHODS: dict[str, tuple[type[Params], type[Struct]]] = {
    "rpc.discover": (NoParams, Discovery),
    "daemon.ping": (NoParams, Pong),
    "daemon.hello": (HelloParams, Hello),
    "daemon.status": (NoParams, Status),
    "daemon.metrics": (MetricsParams, MetricsResult),
    "daemon.reload": (NoParams, ReloadResult),
    "daemon.gc": (GcParams, GcResult),
    "daemon.shutdown": (NoParams, ShutdownResult),
    "agent.list": (NoParams, AgentList),
    "agent.get": (AgentParams, AgentInfo),
    "agent.run": (AgentRunParams, TurnResult),
    "session.create": (CreateParams, CreateResult),
    "session.list": (ListParams, SessionList),
    "session.get": (SessionParams, SessionInfo),
    "session.send": (SendParams, TurnResult),
    "session.stream": (SendParams, TurnResult),
    "session.attach": (AttachParams, AttachResult),
    "session.wait": (WaitParams, WaitResult),
    "session.history": (HistoryParams, History),
    "session.search": (SearchParams, Hits),
    "session.interrupt": (SessionParams, InterruptResult),
    "session.close": (CloseParams, CloseResult),
    "session.resume": (SessionParams, TurnResult),
    "session.fork": (ForkParams, ForkResult),
    "session.rewind": (RewindParams, RewindResult),
    "session.checkpoint": (CheckpointParams, CheckpointResult),
    "session.checkpoints": (CheckpointListParams, CheckpointList),
    "session.export": (ExportParams, ExportResult),
    "session.import": (ImportParams, ImportResult),
    "event.subscribe": (SubscribeParams, SubscribeResult),
    "tool.output": (OutputParams, OutputText),
    "schedule.list": (NoParams, ScheduleList),
    "schedule.run": (ScheduleParams, TickInfo),
    "schedule.pause": (ScheduleParams, ScheduleInfo),
    "schedule.resume": (ScheduleParams, ScheduleInfo),
    "schedule.history": (TickHistoryParams, TickHistory),
    "config.get": (NoParams, ConfigResult),
    "config.check": (NoParams, ConfigCheckResult),
}
STREAMING = frozenset({"agent.run", "session.stream", "session.attach", "event.subscribe"})
"""Methods that send events as notifications before their response."""
CHUNKED = frozenset({"session.export"})
"""Methods that send a document in chunk notifications before their response."""

# Former names: aliases for one release, then they are removed (see CHANGELOG.md).
Created = CreateResult
Attached = AttachResult
Waited = WaitResult
Interrupted = InterruptResult
Closed = CloseResult
ConfigText = ConfigResult
ConfigVerdict = ConfigCheckResult
