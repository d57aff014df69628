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
from walrusd.counters import OTHER, Counter, Histogram, Names
from walrusd.exposition import Family, Sample

BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
"""From an echo to half an hour's work: at once, a moment, a wait, a coffee."""
MINUTE_S = 60.0
RUNNING = "running"
"""A tick that nothing has become of yet."""

log = structlog.get_logger("walrusd.minute")
Refused = Literal["another_user", "too_many"]


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


class Moved(Struct, frozen=True):
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
        self._agents, self._tools, self._models = Names(), Names(), Names()
        self._events: dict[type[AnyEvent], int] = dict.fromkeys(get_args(AnyEvent), 0)
        self._turns = Counter("turns", "Turns that have ended.", ["stop_reason"], get_args(StopReason))
        self._errors = Counter("turn_errors", "Turns that ended with an error.", ["kind"], get_args(TurnErrorKind))
        self._agent_turns = Counter("agent_turns", "Turns that have ended, by agent.", ["agent"])
        self._unpriced_turns = Counter("turns_cost_unknown", "Turns whose cost is unknown.")
        self._seconds = Histogram("turn_seconds", "How long turns took.", BUCKETS_S)
        self._rounds = Counter("model_rounds", "Answers of models.", ["provider", "model"])
        self._unpriced = Counter("model_rounds_cost_unknown", "Answers whose cost is unknown.", ["provider", "model"])
        self._tokens = Counter("tokens", "Tokens; a prompt is input and both of cache.", ["provider", "model", "kind"])
        self._cost = Counter("cost_usd", "US dollars, of what has a known price.", ["provider", "model"])
        self._calls = Counter("tool_calls", "Calls of tools that have an outcome.", ["tool", "outcome"])
        ended = [outcome for outcome in get_args(TickOutcome) if outcome != RUNNING]
        self._ticks = Counter("ticks", "Slots of schedules, by what became of them.", ["outcome"], ended)
        self._requests = Counter("requests", "Requests that were understood and answered.", ["method"], METHODS)
        self._refusals = Counter("request_errors", "Requests answered with an error.", ["kind"], KINDS)
        self._connections = Counter("connections", "Connections that were served.")
        self._turned_away = Counter("connections_refused", "Connections refused.", ["reason"], get_args(Refused))
        self._moving = False
        self._woken = trio.Event()

    def on_event(self, agent: str, event: AnyEvent) -> None:
        """Count an event when it happens. Tokens come first: nothing else comes ten thousand times a second."""
        self._events[type(event)] += 1
        if not self._moving:
            self._moving = True
            self._woken.set()
        match event:
            case TextDelta() | ThinkingDelta() | RunningOutput():
                pass
            case AssistantMessage():
                self._round(event)
            case ToolResult(name=name, outcome=outcome):
                # A name that no tool has is a model's invention, and may be another each time.
                self._calls.add(OTHER if outcome == "unknown_tool" else self._tools.counted(name), outcome)
            case Done():
                self._turn(agent, event)
            case Tick(outcome=outcome, count=count):
                if outcome != RUNNING:
                    self._ticks.add(outcome, by=count)
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
            self._refusals.add(error)

    def on_refusal(self, error: str) -> None:
        """Of what was no request that could be understood."""
        self._refusals.add(error)

    def on_connection(self, refused: Refused | None = None) -> None:
        if refused is None:
            self._connections.add()
        else:
            self._turned_away.add(refused)

    def families(self, now: Gauges) -> list[Family]:
        events = [Sample(count, (("type", str(kind.__struct_config__.tag)),)) for kind, count in self._events.items()]
        info = Sample(1, (("version", self._version),))
        return [
            Family(name="walrusd_info", kind="gauge", help="Which walrusd this is; always 1.", samples=[info]),
            *_gauges(now),
            self._turns.family(),
            self._errors.family(),
            self._agent_turns.family(),
            self._unpriced_turns.family(),
            self._seconds.family(),
            self._rounds.family(),
            self._unpriced.family(),
            self._tokens.family(),
            self._cost.family(),
            self._calls.family(),
            self._ticks.family(),
            Family(name="walrusd_events_total", kind="counter", help="Events, live ones too.", samples=events),
            self._requests.family(),
            self._refusals.family(),
            self._connections.family(),
            self._turned_away.family(),
        ]

    async def minute_lines(self, gauges: Callable[[], Awaitable[Gauges]]) -> None:
        """Say once a minute what has happened in it, until cancelled. Where nothing has, nothing wakes up."""
        before = Moved()
        while True:
            await self._woken.wait()
            await trio.sleep(MINUTE_S)
            self._moving, self._woken = False, trio.Event()
            since, before = before, self._moved()
            _say_minute(since, before, await _standing(gauges))

    def _moved(self) -> Moved:
        return Moved(
            turns=self._turns.total,
            errors=self._errors.total,
            tool_calls=self._calls.total,
            rounds=self._rounds.total,
            tokens=self._tokens.total,
            cost_usd=self._cost.total,
            unpriced=self._unpriced.total + self._unpriced_turns.total,
        )

    def _round(self, said: AssistantMessage) -> None:
        name = self._models.counted(f"{said.provider}/{said.model}")
        provider, model = (OTHER, OTHER) if name == OTHER else (said.provider, said.model)
        self._rounds.add(provider, model)
        used = said.usage
        self._tokens.add(provider, model, "input", by=used.input)
        self._tokens.add(provider, model, "output", by=used.output)
        self._tokens.add(provider, model, "cache_read", by=used.cache_read)
        self._tokens.add(provider, model, "cache_write", by=used.cache_write)
        if said.cost_usd is None:
            self._unpriced.add(provider, model)
        else:
            self._cost.add(provider, model, by=said.cost_usd)

    def _turn(self, agent: str, done: Done) -> None:
        self._turns.add(done.stop_reason)
        self._agent_turns.add(self._agents.counted(agent))
        self._seconds.add(done.duration_ms / 1000)
        if done.error:
            self._errors.add(done.error.kind)
        if done.cost_usd is None:
            self._unpriced_turns.add()


def _gauges(now: Gauges) -> list[Family]:
    return [
        Family(name=f"walrusd_{name}", kind="gauge", help=text, samples=[Sample(getattr(now, field))])
        for field, (name, text) in _GAUGES.items()
    ]


async def _standing(gauges: Callable[[], Awaitable[Gauges]]) -> dict[str, int]:
    try:
        now = await gauges()
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


def _say_minute(since: Moved, now: Moved, standing: dict[str, int]) -> None:
    """`cost_usd` is null where it is not known of all that cost something."""
    log.info(
        "minute",
        turns=now.turns - since.turns,
        errors=now.errors - since.errors,
        tool_calls=now.tool_calls - since.tool_calls,
        rounds=now.rounds - since.rounds,
        tokens=now.tokens - since.tokens,
        cost_usd=round(now.cost_usd - since.cost_usd, 9) if now.unpriced == since.unpriced else None,
        **standing,
    )
