"""Determines which walrusd, home and socket a service would use, and whether it could start.

The configuration is read with the environment that the service will have, not with the shell's.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

import click

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrusctl.context import CliContext
from walrusctl.output import print_error
from walrusctl.systemctl import UserSystemd
from walrusctl.systemd_units import Installation

_DEFAULT_GRACE_S = 10.0
"""Seconds of shutdown grace if the configuration cannot be read; the configuration's own default."""
_LOGIN_VARIABLES = ("HOME", "USER", "LOGNAME", "PATH", "LANG")
"""Variables that a user's systemd gives its services and that concern walrusd or its configuration."""


class ServicePlan(NamedTuple):
    installation: Installation
    config_error: ConfigError | None
    """Why walrusd would not start as a service; None if it would."""


def plan_service(ctx: CliContext, systemd: UserSystemd | str) -> ServicePlan:
    """Plans the service for the home. Raises click.UsageError if there can be none."""
    home = ctx.home_path()
    grace_s, config_error = _read_grace(home, _service_environment(home, systemd))
    try:
        configured = paths.read_configured_socket(home)
        socket = paths.socket_path(ctx.socket, os.environ, home, configured=configured)
        default = paths.socket_path(None, {"HOME": os.environ.get("HOME", "")}, home, configured=configured)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    installation = Installation(
        walrusd=_find_walrusd(),
        home=home,
        socket=socket,
        needs_socket_option=socket != default,
        grace_s=grace_s,
        umask=_read_umask(),
    )
    return ServicePlan(installation, config_error)


def works_only_in_this_shell(home: str) -> bool:
    """Whether the configuration that fails for a service loads with this shell's variables."""
    return _read_grace(home, os.environ)[1] is None


def is_temporary(home: str) -> bool:
    """Whether the home is in a temporary folder, which may be emptied at the next boot."""
    home = os.path.realpath(home)
    folders = {os.path.realpath(folder) for folder in ("/tmp", tempfile.gettempdir())}  # noqa: S108 - only compared
    return any(os.path.commonpath((home, folder)) == folder for folder in folders)


def _read_grace(home: str, environ: Mapping[str, str]) -> tuple[float, ConfigError | None]:
    # Imported here: only commands that read the configuration need msgspec and the parsers.
    from walrus_config.load import load

    try:
        paths.check_home(home)
        return load(home, environ=environ).daemon.shutdown_grace_s, None
    except ConfigError as error:
        return _DEFAULT_GRACE_S, error


def _find_walrusd() -> str:
    """Returns the path of the walrusd beside this walrusctl, or beside the Python that runs it."""
    beside = [sys.argv[0]] if os.path.basename(sys.argv[0]) == "walrusctl" else []
    programs = [
        os.path.join(os.path.dirname(os.path.abspath(neighbour)), "walrusd") for neighbour in (*beside, sys.executable)
    ]
    for program in programs:
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    raise click.UsageError(f"there is no walrusd beside this walrusctl; looked for {' and '.join(programs)}")


def _read_umask() -> int:
    """Returns the umask. Reading it requires setting it; no other thread runs that could notice."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _service_environment(home: str, systemd: UserSystemd | str) -> dict[str, str]:
    if isinstance(systemd, UserSystemd):
        environment = dict(systemd.service_environment)
    else:
        environment = {name: os.environ[name] for name in _LOGIN_VARIABLES if name in os.environ}
    try:
        with open(os.path.join(home, "environment"), encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
            if os.fstat(file.fileno()).st_mode & 0o044:
                print_error(f"others may read {file.name}", f"chmod 600 {file.name}")
    except OSError:
        return environment
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            environment[name.strip()] = _unquote(value.strip())
    return environment


def _unquote(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
