"""The durable events of the daemon; they belong to no session."""

from msgspec import Struct

from walrus_protocol.content import ExpiryReason, TickOutcome, TickTrigger
from walrus_protocol.events.event import Event


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


AnyDaemonEvent = Tick | ConfigReloaded | SessionsExpired | SessionImported
