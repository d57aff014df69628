"""The params and results of daemon.*: status, metrics, reload, garbage collection and shutdown."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from walrus_protocol.methods.method import Method
from walrus_protocol.param_types import NoParams, Params


class Pong(Struct, frozen=True, kw_only=True):
    pass


class HelloParams(Params, frozen=True, kw_only=True):
    client: Annotated[str, Meta(max_length=128)] = ""
    """The name of the client in events, for people who read the log."""
    protocol: int = 1

    def __post_init__(self) -> None:
        if not self.client.isprintable():
            raise ValueError("the client's name has characters that cannot be printed")


class Hello(Struct, frozen=True, kw_only=True):
    protocol: int
    version: str
    pid: int
    home: str
    uptime_s: float


class SessionCounts(Struct, frozen=True, kw_only=True):
    """Numbers of sessions. `open`: not closed; `live`: in memory; `running`: with a turn under way."""

    open: int
    live: int
    running: int


class ProviderStatus(Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    models: tuple[str, ...] = ()


class Status(Struct, frozen=True, kw_only=True):
    version: str
    pid: int
    uptime_s: float
    home: str
    sessions: SessionCounts
    agents: tuple[str, ...]
    providers: tuple[ProviderStatus, ...]
    mcps: tuple[str, ...] = ()
    schedule: tuple[str, ...] = ()
    rss_bytes: int = 0
    fds: int = 0
    """Open file descriptors."""
    tasks: int = 0
    """All tasks of trio."""
    threads: int = 0
    children: int = 0
    """Processes that descend from the daemon."""
    connections: int = 0
    warnings: tuple[str, ...] = ()
    """Texts about conditions that a person should know or change: ignored keys, a missing provider."""


class MetricsParams(Params, frozen=True, kw_only=True):
    format: Literal["json", "prometheus"] = "json"


class MetricsResult(Struct, frozen=True, kw_only=True):
    """All metrics, in `metrics` for the format json and in `text` for the format prometheus."""

    metrics: dict[str, float]
    text: str = ""


class ReloadResult(Struct, frozen=True, kw_only=True):
    """The changed keys of walrus.toml: those now in force, and those that need a restart."""

    changed: tuple[str, ...]
    at_restart: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class GcParams(Params, frozen=True, kw_only=True):
    dry_run: bool = False
    """True: report what would be deleted, and delete nothing."""


class GcResult(Struct, frozen=True, kw_only=True):
    """Counts of what was deleted, or, after a dry run, estimates of it.

    `db_bytes` is the size of the database.
    """

    dry_run: bool
    sessions: int
    outputs: int
    events: int
    bytes: int
    db_bytes: int


class ShutdownResult(Struct, frozen=True, kw_only=True):
    stopping: bool = True


ROWS: dict[str, Method] = {
    "daemon.ping": Method(NoParams, Pong, inline=True, from_tool=True),
    "daemon.hello": Method(HelloParams, Hello, inline=True, from_tool=True),
    "daemon.status": Method(NoParams, Status),
    "daemon.metrics": Method(MetricsParams, MetricsResult),
    "daemon.reload": Method(NoParams, ReloadResult),
    "daemon.gc": Method(GcParams, GcResult),
    "daemon.shutdown": Method(NoParams, ShutdownResult, inline=True),
}
