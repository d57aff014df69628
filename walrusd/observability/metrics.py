"""What the daemon has done and how it stands, in numbers. Counting is cheap and wakes nobody; reading is on demand.

Beside them a line of log a minute, for as long as something moves.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, get_args

import structlog
import trio
from msgspec import Struct

from walrus_protocol.content import StopReason, TickOutcome, TurnErrorKind
from walrus_protocol.events import (
    AnyEvent,
    AssistantMessage,
    CheckpointCreated,
    ConfigReloaded,
    Done,
    InterruptRequested,
    Lagged,
    MessageQueued,
    Rewound,
    RunningOutput,
    SessionClosed,
    SessionCreated,
    SessionImported,
    SessionsExpired,
    StateChanged,
    TextDelta,
    ThinkingDelta,
    Tick,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    TurnResumed,
    UserMessage,
)
from walrus_protocol.methods import METHODS
from walrus_protocol.wire import KINDS
from walrusd.observability.instruments import OTHER_LABEL, BoundedLabels, Counter, Histogram
from walrusd.observability.prometheus import MetricFamily, MetricSample

BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
"""From an echo to half an hour's work: at once, a moment, a wait, a coffee."""
MINUTE_S = 60.0
RUNNING = "running"
"""A tick that nothing has become of yet."""

log = structlog.get_logger("walrusd.minute")
ConnectionRejection = Literal["another_user", "too_many"]


class Gauges(Struct, frozen=True, kw_only=True):
    """How the daemon stands at the moment of asking."""

    uptime_s: float
    sessions_open: int
    sessions_live: int
    sessions_running: int
    connections: int
    rss_bytes: int
    fds: int
    tasks: int
    threads: int
    children: int
    db_bytes: int
    wal_bytes: int


_GAUGES = {
    "uptime_s": ("uptime_seconds", "Seconds since walrusd was started."),
    "sessions_open": ("sessions_open", "Sessions that are not closed."),
    "sessions_live": ("sessions_live", "Sessions held in memory."),
    "sessions_running": ("sessions_running", "Sessions with a turn under way."),
    "connections": ("connections", "Connections of clients."),
    "rss_bytes": ("resident_memory_bytes", "Memory of the process that is in RAM."),
    "fds": ("open_fds", "Open file descriptors."),
    "tasks": ("tasks", "Tasks of the event loop."),
    "threads": ("threads", "Threads of the process."),
    "children": ("children", "Processes that descend from walrusd."),
    "db_bytes": ("db_bytes", "Size of the database without its write-ahead log."),
    "wal_bytes": ("wal_bytes", "Size of the write-ahead log."),
}


class ActivityTotals(Struct, frozen=True):
    """What a line a minute tells of, as it stands at one moment."""

    turns: float = 0
    errors: float = 0
    tool_calls: float = 0
    rounds: float = 0
    tokens: float = 0
    cost_usd: float = 0.0
    unpriced: float = 0


class Metrics:
    """Counts from the start of the process on. All of it belongs to the loop's thread."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._agent_labels, self._tool_labels, self._model_labels = BoundedLabels(), BoundedLabels(), BoundedLabels()
        self._event_counts: dict[type[AnyEvent], int] = dict.fromkeys(get_args(AnyEvent), 0)
        self._turns = Counter("turns", "Turns that have ended.", ["stop_reason"], get_args(StopReason))
        self._turn_errors = Counter("turn_errors", "Turns that ended with an error.", ["kind"], get_args(TurnErrorKind))
        self._agent_turns = Counter("agent_turns", "Turns that have ended, by agent.", ["agent"])
        self._unpriced_turns = Counter("turns_cost_unknown", "Turns whose cost is unknown.")
        self._turn_seconds = Histogram("turn_seconds", "How long turns took.", BUCKETS_S)
        self._rounds = Counter("model_rounds", "Answers of models.", ["provider", "model"])
        self._unpriced_rounds = Counter(
            "model_rounds_cost_unknown", "Answers whose cost is unknown.", ["provider", "model"]
        )
        self._tokens = Counter("tokens", "Tokens; a prompt is input and both of cache.", ["provider", "model", "kind"])
        self._cost = Counter("cost_usd", "US dollars, of what has a known price.", ["provider", "model"])
        self._tool_calls = Counter("tool_calls", "Calls of tools that have an outcome.", ["tool", "outcome"])
        ended = [outcome for outcome in get_args(TickOutcome) if outcome != RUNNING]
        self._ticks = Counter("ticks", "Slots of schedules, by what became of them.", ["outcome"], ended)
        self._requests = Counter("requests", "Requests that were understood and answered.", ["method"], METHODS)
        self._request_errors = Counter("request_errors", "Requests answered with an error.", ["kind"], KINDS)
        self._connections = Counter("connections", "Connections that were served.")
        self._rejected_connections = Counter(
            "connections_refused", "Connections refused.", ["reason"], get_args(ConnectionRejection)
        )
        self._active = False
        self._activity = trio.Event()

    def on_event(self, agent: str, event: AnyEvent) -> None:
        """Count an event when it happens. Tokens come first: nothing else comes ten thousand times a second."""
        self._event_counts[type(event)] += 1
        if not self._active:
            self._active = True
            self._activity.set()
        match event:
            case TextDelta() | ThinkingDelta() | RunningOutput():
                pass
            case AssistantMessage():
                self._count_round(event)
            case ToolResult(name=name, outcome=outcome):
                # A name that no tool has is a model's invention, and may be another each time.
                self._tool_calls.add(
                    OTHER_LABEL if outcome == "unknown_tool" else self._tool_labels.label_for(name), outcome
                )
            case Done():
                self._count_turn(agent, event)
            case Tick(outcome=outcome, count=count):
                if outcome != RUNNING:
                    self._ticks.add(outcome, amount=count)
            case (
                SessionCreated()
                | UserMessage()
                | ToolCallsStart()
                | ToolStarted()
                | ToolCallsComplete()
                | InterruptRequested()
                | TurnResumed()
                | CheckpointCreated()
                | Rewound()
                | SessionClosed()
                | ConfigReloaded()
                | SessionsExpired()
                | SessionImported()
                | MessageQueued()
                | StateChanged()
                | Lagged()
            ):
                pass

    def on_request(self, method: str, error: str | None) -> None:
        self._requests.add(method)
        if error is not None:
            self._request_errors.add(error)

    def on_invalid_request(self, error: str) -> None:
        """Of what was no request that could be understood."""
        self._request_errors.add(error)

    def on_connection(self, rejection: ConnectionRejection | None = None) -> None:
        if rejection is None:
            self._connections.add()
        else:
            self._rejected_connections.add(rejection)

    def read_families(self, gauges: Gauges) -> list[MetricFamily]:
        events = [
            MetricSample(count, (("type", str(kind.__struct_config__.tag)),))
            for kind, count in self._event_counts.items()
        ]
        info = MetricSample(1, (("version", self._version),))
        return [
            MetricFamily(name="walrusd_info", kind="gauge", help="Which walrusd this is; always 1.", samples=[info]),
            *_gauge_families(gauges),
            self._turns.to_family(),
            self._turn_errors.to_family(),
            self._agent_turns.to_family(),
            self._unpriced_turns.to_family(),
            self._turn_seconds.to_family(),
            self._rounds.to_family(),
            self._unpriced_rounds.to_family(),
            self._tokens.to_family(),
            self._cost.to_family(),
            self._tool_calls.to_family(),
            self._ticks.to_family(),
            MetricFamily(name="walrusd_events_total", kind="counter", help="Events, live ones too.", samples=events),
            self._requests.to_family(),
            self._request_errors.to_family(),
            self._connections.to_family(),
            self._rejected_connections.to_family(),
        ]

    async def run_minute_log(self, read_gauges: Callable[[], Awaitable[Gauges]]) -> None:
        """Say once a minute what has happened in it, until cancelled. Where nothing has, nothing wakes up."""
        before = ActivityTotals()
        while True:
            await self._activity.wait()
            await trio.sleep(MINUTE_S)
            self._active, self._activity = False, trio.Event()
            since, before = before, self._read_totals()
            _log_minute(since, before, await _read_gauges(read_gauges))

    def _read_totals(self) -> ActivityTotals:
        return ActivityTotals(
            turns=self._turns.total,
            errors=self._turn_errors.total,
            tool_calls=self._tool_calls.total,
            rounds=self._rounds.total,
            tokens=self._tokens.total,
            cost_usd=self._cost.total,
            unpriced=self._unpriced_rounds.total + self._unpriced_turns.total,
        )

    def _count_round(self, message: AssistantMessage) -> None:
        name = self._model_labels.label_for(f"{message.provider}/{message.model}")
        provider, model = (OTHER_LABEL, OTHER_LABEL) if name == OTHER_LABEL else (message.provider, message.model)
        self._rounds.add(provider, model)
        used = message.usage
        self._tokens.add(provider, model, "input", amount=used.input)
        self._tokens.add(provider, model, "output", amount=used.output)
        self._tokens.add(provider, model, "cache_read", amount=used.cache_read)
        self._tokens.add(provider, model, "cache_write", amount=used.cache_write)
        if message.cost_usd is None:
            self._unpriced_rounds.add(provider, model)
        else:
            self._cost.add(provider, model, amount=message.cost_usd)

    def _count_turn(self, agent: str, done: Done) -> None:
        self._turns.add(done.stop_reason)
        self._agent_turns.add(self._agent_labels.label_for(agent))
        self._turn_seconds.add(done.duration_ms / 1000)
        if done.error:
            self._turn_errors.add(done.error.kind)
        if done.cost_usd is None:
            self._unpriced_turns.add()


def _gauge_families(gauges: Gauges) -> list[MetricFamily]:
    return [
        MetricFamily(name=f"walrusd_{name}", kind="gauge", help=text, samples=[MetricSample(getattr(gauges, field))])
        for field, (name, text) in _GAUGES.items()
    ]


async def _read_gauges(read_gauges: Callable[[], Awaitable[Gauges]]) -> dict[str, int]:
    try:
        now = await read_gauges()
    except Exception:
        # No line of log is worth the daemon: what was counted is said without it.
        log.exception("gauges cannot be read")
        return {}
    return {
        "running": now.sessions_running,
        "sessions_live": now.sessions_live,
        "connections": now.connections,
        "rss": now.rss_bytes,
        "fds": now.fds,
        "wal_bytes": now.wal_bytes,
    }


def _log_minute(before: ActivityTotals, after: ActivityTotals, gauges: dict[str, int]) -> None:
    """`cost_usd` is null where it is not known of all that cost something."""
    log.info(
        "minute",
        turns=after.turns - before.turns,
        errors=after.errors - before.errors,
        tool_calls=after.tool_calls - before.tool_calls,
        rounds=after.rounds - before.rounds,
        tokens=after.tokens - before.tokens,
        cost_usd=round(after.cost_usd - before.cost_usd, 9) if after.unpriced == before.unpriced else None,
        **gauges,
    )
