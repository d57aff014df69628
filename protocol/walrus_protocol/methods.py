"""Every method: the Struct of its params, the Struct of its result, and the table that joins them.

The server refuses unknown params and names the nearest; clients skip unknown fields of results.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from walrus_protocol.branches import (
    CheckpointList,
    CheckpointMade,
    CheckpointParams,
    CheckpointsParams,
    Forked,
    ForkParams,
    RewindParams,
    WentBack,
)
from walrus_protocol.content import (
    Message,
    State,
    StopReason,
    TurnError,
    Usage,
    WhenBusy,
)
from walrus_protocol.fields import Id, Key, Limit, Line, NoParams, Params, Seconds, Sent, Seq
from walrus_protocol.housekeeping import (
    Collected,
    GcParams,
    Hello,
    HelloParams,
    Metrics,
    MetricsParams,
    Pong,
    Reloaded,
    Status,
    Stopping,
)
from walrus_protocol.portable import Exported, ExportParams, Imported, ImportParams
from walrus_protocol.schedules import (
    ScheduleInfo,
    ScheduleList,
    ScheduleParams,
    TickHistory,
    TickHistoryParams,
    TickInfo,
)
from walrus_protocol.searching import Hits, SearchParams
from walrus_protocol.watching import Subscribed, SubscribeParams


class AgentInfo(Struct, frozen=True, kw_only=True):
    name: str
    description: str
    model: str
    max_iterations: int
    thinking: bool = False
    tools: tuple[str, ...] = ()
    """The tools it is offered, by name, in force."""
    workspace: str = ""
    system_prompt: str = ""


class AgentList(Struct, frozen=True, kw_only=True):
    agents: tuple[AgentInfo, ...]


class AgentParams(Params, frozen=True, kw_only=True):
    agent: str


class AgentRunParams(Params, frozen=True, kw_only=True):
    agent: str
    content: Sent
    sender: Line = ""
    created_by: Line = ""
    title: Line = ""
    timeout_s: Seconds | None = None


class CreateParams(Params, frozen=True, kw_only=True):
    agent: str
    created_by: Line = ""
    title: Line = ""
    key: Key | None = None


class Created(Struct, frozen=True, kw_only=True):
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
    """`messages` counts those of users and assistants that the model sees.

    `cost_usd` is null when the price of any call is unknown. `error` is why the last turn failed, in the state `error`.
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
    content: Sent
    sender: Line = ""
    key: Key | None = None
    when_busy: WhenBusy = "queue"
    timeout_s: Seconds | None = None


class TurnResult(Struct, frozen=True, kw_only=True):
    """How a turn ended, once its `done` is durable. `first_seq` and `last_seq` are its user message and its done."""

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


class Attached(Struct, frozen=True, kw_only=True):
    last_seq: int
    reason: Literal["end", "closed"]


class WaitParams(Params, frozen=True, kw_only=True):
    session: Id
    states: Annotated[tuple[State, ...], Meta(min_length=1)]
    timeout_s: Seconds | None = None


class Waited(Struct, frozen=True, kw_only=True):
    state: State


class HistoryParams(Params, frozen=True, kw_only=True):
    session: Id
    limit: Limit = 50
    cursor: str | None = None


class History(Struct, frozen=True, kw_only=True):
    messages: tuple[Message, ...]
    cursor: str | None = None


class Interrupted(Struct, frozen=True, kw_only=True):
    interrupted: bool
    turn: int | None = None


class CloseParams(Params, frozen=True, kw_only=True):
    session: Id
    force: bool = False


class Closed(Struct, frozen=True, kw_only=True):
    closed: bool


class OutputParams(Params, frozen=True, kw_only=True):
    session: Id
    ref: Line
    offset: Seq = 0


class OutputText(Struct, frozen=True, kw_only=True):
    """A page of a tool's whole output; `next` is the offset to go on from, null at the end."""

    text: str
    next: int | None = None


class ConfigText(Struct, frozen=True, kw_only=True):
    """The configuration in force as JSON, secrets masked."""

    path: str
    config: dict[str, object]
    warnings: tuple[str, ...] = ()


class ConfigVerdict(Struct, frozen=True, kw_only=True):
    """What loading the files as they are now would say."""

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
    "daemon.metrics": (MetricsParams, Metrics),
    "daemon.reload": (NoParams, Reloaded),
    "daemon.gc": (GcParams, Collected),
    "daemon.shutdown": (NoParams, Stopping),
    "agent.list": (NoParams, AgentList),
    "agent.get": (AgentParams, AgentInfo),
    "agent.run": (AgentRunParams, TurnResult),
    "session.create": (CreateParams, Created),
    "session.list": (ListParams, SessionList),
    "session.get": (SessionParams, SessionInfo),
    "session.send": (SendParams, TurnResult),
    "session.stream": (SendParams, TurnResult),
    "session.attach": (AttachParams, Attached),
    "session.wait": (WaitParams, Waited),
    "session.history": (HistoryParams, History),
    "session.search": (SearchParams, Hits),
    "session.interrupt": (SessionParams, Interrupted),
    "session.close": (CloseParams, Closed),
    "session.resume": (SessionParams, TurnResult),
    "session.fork": (ForkParams, Forked),
    "session.rewind": (RewindParams, WentBack),
    "session.checkpoint": (CheckpointParams, CheckpointMade),
    "session.checkpoints": (CheckpointsParams, CheckpointList),
    "session.export": (ExportParams, Exported),
    "session.import": (ImportParams, Imported),
    "event.subscribe": (SubscribeParams, Subscribed),
    "tool.output": (OutputParams, OutputText),
    "schedule.list": (NoParams, ScheduleList),
    "schedule.run": (ScheduleParams, TickInfo),
    "schedule.pause": (ScheduleParams, ScheduleInfo),
    "schedule.resume": (ScheduleParams, ScheduleInfo),
    "schedule.history": (TickHistoryParams, TickHistory),
    "config.get": (NoParams, ConfigText),
    "config.check": (NoParams, ConfigVerdict),
}
STREAMING = frozenset({"agent.run", "session.stream", "session.attach", "event.subscribe"})
"""Methods whose events come as notifications before their response."""
CHUNKED = frozenset({"session.export"})
"""Methods whose document comes as notifications before their response."""
