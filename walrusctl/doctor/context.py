"""Whom the doctor looks at: a home, what its configuration says, and what its daemon has answered."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrusctl.doctor.check import Check

if TYPE_CHECKING:
    from walrus_config.schema import Config


class DaemonReport(NamedTuple):
    """What a walrusd says of itself."""

    pid: int
    version: str
    home: str
    uptime_s: float
    warnings: tuple[str, ...] = ()
    start_error: str | None = None
    """Why it could not start with the files as they are now; "" where it could, None where it was not asked."""


class DoctorContext(NamedTuple):
    home: str
    environ: Mapping[str, str]
    socket: str
    """Where walrusd listens, or would; empty where there can be no such path."""
    config: "Config | ConfigError"
    daemon: DaemonReport | None = None
    unreachable: str = ""
    """Why there is no daemon's word, where something holds the socket that should give it."""
    moves_to: str = ""
    """Where it will listen when it is started anew, where that is elsewhere."""

    @property
    def uid(self) -> int:
        """Who walrusd runs as: who asks, or the owner of the home where root asks."""
        try:
            return os.geteuid() or os.stat(self.home).st_uid
        except OSError:
            return os.geteuid()

    @property
    def paths(self) -> paths.Paths:
        return paths.home_paths(self.home)

    @property
    def has_home(self) -> bool:
        return os.path.isdir(self.home)


CheckFn = Callable[[DoctorContext], Iterator[Check]]
"""Sees one thing and changes nothing. It may take its time: it runs in a thread, and is not waited for without end."""
