"""The metrics of the daemon: counters of its work and gauges of its state.

Counting is cheap and wakes no task; values are read on demand. In addition, each minute with activity has one log line.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, get_args

import structlog
import trio
from msgspec import Struct

from walrus_protocol.content import StopReason, TickOutcome, TurnErrorKind
from walrus_protocol.events import (
    AnyEvent,
    AssistantMessage,
    Done,
    Event,
    Tick,
    ToolResult,
)
from walrus_protocol.methods import METHODS
from walrus_protocol.wire import KINDS
from walrusd.observability.instruments import OTHER_LABEL, BoundedLabels, Counter, Histogram
from walrusd.observability.prometheus import MetricFamily, MetricSample

BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
"""Seconds; upper bounds of the buckets of turn durations, up to half an hour of work."""
MINUTE_S = 60.0
"""Seconds between two lines of the minute log."""
RUNNING = "running"
"""Outcome of a tick that has not ended."""

log = structlog.get_logger("walrusd.minute")
ConnectionRejection = Literal["another_user", "too_many"]


class Gauges(Struct, frozen=True, kw_only=True):
    """The state of the daemon at one moment."""

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
    live_event_counts: Mapping[type[Event], int]


_GAUGES = {
    "uptime_s": ("uptime_seconds", "Seconds since walrusd started."),
    "sessions_open": ("sessions_open", "Sessions that are not closed."),
    "sessions_live": ("sessions_live", "Sessions held in memory."),
    "sessions_running": ("sessions_running", "Sessions with a running turn."),
    "connections": ("connections", "Connections of clients."),
    "rss_bytes": ("resident_memory_bytes", "Memory of the process that is in RAM."),
    "fds": ("open_fds", "Open file descriptors."),
    "tasks": ("tasks", "Tasks of the event loop."),
    "threads": ("threads", "Threads of the process."),
    "children": ("children", "Processes that descend from walrusd."),
    "db_bytes": ("db_bytes", "Size of the database without its write-ahead log."),
    "wal_bytes": ("wal_bytes", "Size of the write-ahead log."),
}


class Metrics:
    """All counters since the start of the process. Only the thread of the event loop may use them."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._agent_labels, self._tool_labels, self._model_labels = BoundedLabels(), BoundedLabels(), BoundedLabels()
        self._event_counts: dict[type[Event], int] = dict.fromkeys(get_args(AnyEvent), 0)
        self._turns = Counter("turns", "Turns that have ended.", ["stop_reason"], get_args(StopReason))
        self._turn_errors = Counter("turn_errors", "Turns that ended with an error.", ["kind"], get_args(TurnErrorKind))
        self._agent_turns = Counter("agent_turns", "Turns that have ended, by agent.", ["agent"])
        self._unpriced_turns = Counter("turns_cost_unknown", "Turns whose cost is unknown.")
        self._turn_seconds = Histogram("turn_seconds", "Duration of turns in seconds.", BUCKETS_S)
        self._rounds = Counter("model_rounds", "Answers of models.", ["provider", "model"])
        self._unpriced_rounds = Counter(
            "model_rounds_cost_unknown", "Answers whose cost is unknown.", ["provider", "model"]
        )
        self._tokens = Counter(
            "tokens", "Tokens; a prompt is input plus both cache kinds.", ["provider", "model", "kind"]
        )
        self._cost = Counter("cost_usd", "US dollars, for answers with a known price.", ["provider", "model"])
        self._tool_calls = Counter("tool_calls", "Finished tool calls, by outcome.", ["tool", "outcome"])
        outcomes = [outcome for outcome in get_args(TickOutcome) if outcome != RUNNING]
        self._ticks = Counter("ticks", "Slots of schedules, by outcome.", ["outcome"], outcomes)
        self._requests = Counter("requests", "Valid requests that were answered.", ["method"], METHODS)
        self._request_errors = Counter("request_errors", "Requests answered with an error.", ["kind"], KINDS)
        self._connections = Counter("connections", "Connections that were served.")
        self._rejected_connections = Counter(
            "connections_refused", "Connections refused.", ["reason"], get_args(ConnectionRejection)
        )
        self.open_connections = 0
        self._active = False
        self._activity = trio.Event()

    def on_event(self, agent: str, event: AnyEvent) -> None:
        """Counts a logged event; live events are counted where they are published."""
        self._event_counts[type(event)] += 1
        if not self._active:
            self._active = True
            self._activity.set()
        match event:
            case AssistantMessage():
                self._count_round(event)
            case ToolResult(name=name, outcome=outcome):
                # A model has invented the name of an unknown tool, and may invent another one each time.
                tool = OTHER_LABEL if outcome == "unknown_tool" else self._tool_labels.label_for(name)
                self._tool_calls[tool, outcome] += 1
            case Done():
                self._count_turn(agent, event)
            case Tick(outcome=outcome, count=count):
                if outcome != RUNNING:
                    self._ticks[outcome,] += count
            case _:
                pass  # only its number is counted

    def on_request(self, method: str, error: str | None) -> None:
        self._requests[method,] += 1
        if error is not None:
            self._request_errors[error,] += 1

    def on_invalid_request(self, error: str) -> None:
        """Counts the error of a message that was not a valid request."""
        self._request_errors[error,] += 1

    def on_connection(self, rejection: ConnectionRejection | None = None) -> None:
        if rejection is None:
            self._connections[()] += 1
            self.open_connections += 1
        else:
            self._rejected_connections[rejection,] += 1

    def on_disconnection(self) -> None:
        self.open_connections -= 1

    def read_families(self, gauges: Gauges) -> list[MetricFamily]:
        events = [
            MetricSample(count, (("type", str(kind.__struct_config__.tag)),))
            for kind, count in {**self._event_counts, **gauges.live_event_counts}.items()
        ]
        info = MetricSample(1, (("version", self._version),))
        return [
            MetricFamily(name="walrusd_info", kind="gauge", help="The version of walrusd; always 1.", samples=[info]),
            *_gauge_families(gauges),
            *(item.to_family() for item in vars(self).values() if isinstance(item, Counter | Histogram)),
            MetricFamily(
                name="walrusd_events_total", kind="counter", help="Events, live events included.", samples=events
            ),
        ]

    async def run_minute_log(self, read_gauges: Callable[[], Awaitable[Gauges]]) -> None:
        """Logs one line for each minute with activity, until cancelled. Without activity no task wakes up."""
        before: dict[str, float] = {}
        while True:
            await self._activity.wait()
            await trio.sleep(MINUTE_S)
            self._active, self._activity = False, trio.Event()
            totals = self._read_totals()
            minute = {name: total - before.get(name, 0) for name, total in totals.items()}
            before = totals
            # Null if the cost of a turn or answer is unknown.
            cost_usd = None if minute.pop("unpriced") else round(minute.pop("cost_usd"), 9)
            log.info("minute", **{**minute, "cost_usd": cost_usd}, **await _read_gauges(read_gauges))

    def _read_totals(self) -> dict[str, float]:
        return {
            "turns": self._turns.total,
            "errors": self._turn_errors.total,
            "tool_calls": self._tool_calls.total,
            "rounds": self._rounds.total,
            "tokens": self._tokens.total,
            "cost_usd": self._cost.total,
            "unpriced": self._unpriced_rounds.total + self._unpriced_turns.total,
        }

    def _count_round(self, message: AssistantMessage) -> None:
        name = self._model_labels.label_for(f"{message.provider}/{message.model}")
        provider, model = (OTHER_LABEL, OTHER_LABEL) if name == OTHER_LABEL else (message.provider, message.model)
        self._rounds[provider, model] += 1
        for kind in ("input", "output", "cache_read", "cache_write"):
            self._tokens[provider, model, kind] += getattr(message.usage, kind)
        if message.cost_usd is None:
            self._unpriced_rounds[provider, model] += 1
        else:
            self._cost[provider, model] += message.cost_usd

    def _count_turn(self, agent: str, done: Done) -> None:
        self._turns[done.stop_reason,] += 1
        self._agent_turns[self._agent_labels.label_for(agent),] += 1
        self._turn_seconds.add(done.duration_ms / 1000)
        if done.error:
            self._turn_errors[done.error.kind,] += 1
        if done.cost_usd is None:
            self._unpriced_turns[()] += 1


def _gauge_families(gauges: Gauges) -> list[MetricFamily]:
    return [
        MetricFamily(name=f"walrusd_{name}", kind="gauge", help=text, samples=[MetricSample(getattr(gauges, field))])
        for field, (name, text) in _GAUGES.items()
    ]


async def _read_gauges(read_gauges: Callable[[], Awaitable[Gauges]]) -> dict[str, int]:
    try:
        now = await read_gauges()
    except Exception:
        # A log line must not end the daemon: the line is then written without gauges.
        log.exception("gauges_unreadable")
        return {}
    return {
        "running": now.sessions_running,
        "sessions_live": now.sessions_live,
        "connections": now.connections,
        "rss": now.rss_bytes,
        "fds": now.fds,
        "wal_bytes": now.wal_bytes,
    }
