"""The input of all doctor checks: the home, its configuration, and the responses of its walrusd."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrusctl.doctor.check import Finding

if TYPE_CHECKING:
    from walrus_config.schema import Config


class DaemonReport(NamedTuple):
    """The responses of a running walrusd."""

    pid: int
    version: str
    home: str
    uptime_s: float
    warnings: tuple[str, ...] = ()
    start_error: str | None = None
    """Why it could not restart with the present files; "" if it could, None if unknown."""


class DoctorContext(NamedTuple):
    home: str
    environ: Mapping[str, str]
    socket: str
    """The path where walrusd listens or would listen; empty if no valid path can be made."""
    config: "Config | ConfigError"
    daemon: DaemonReport | None = None
    unreachable: str = ""
    """Why walrusd did not respond, if a process holds its socket; otherwise empty."""
    moves_to: str = ""
    """The path where walrusd will listen after a restart, if it differs; otherwise empty."""

    @property
    def uid(self) -> int:
        """The user id of walrusd: this user, or the owner of the home if this user is root."""
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


CheckFn = Callable[[DoctorContext], Iterator[Finding]]
"""A function that checks one thing and changes nothing.

It may be slow: it runs in a thread of its own, and the wait for it is bounded.
"""
