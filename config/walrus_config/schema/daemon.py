"""The table [daemon]."""

from typing import Annotated, Literal, Self

from msgspec.structs import replace

from walrus_config.diagnostics import Location
from walrus_config.errors import ConfigError
from walrus_config.paths import expand, socket_path
from walrus_config.schema.section import Count, KeyMark, NonNegative, Positive, ResolveContext, Section


class DaemonSettings(Section, frozen=True, kw_only=True):
    socket: Annotated[str, KeyMark.AT_RESTART] = ""  # clients would still connect to the old socket
    """The socket path, absolute after loading; empty means walrus.sock in the home."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], KeyMark.AT_RESTART] = "auto"  # a log file has one format
    idle_evict_s: Positive = 600.0
    """Seconds that an idle session stays in memory."""
    shutdown_grace_s: NonNegative = 10.0
    max_connections: Annotated[Count, KeyMark.AT_RESTART] = 512
    max_running_turns: Annotated[Count, KeyMark.AT_RESTART] = 64

    def resolve(self, at: Location, context: ResolveContext) -> Self:
        if not self.socket:
            return self
        home = context.paths.home
        path = expand(self.socket, context.environ, base=home)
        try:
            return replace(self, socket=socket_path(path, context.environ, home))
        except ConfigError as error:
            at.key("socket").add_error(error.problems[0].message, "choose a shorter one")
            return self
