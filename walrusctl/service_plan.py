"""Which walrusd a service would run, on which home and socket, and whether it could: read as the service will be."""

import os
import sys
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
"""That of a configuration which does not say another."""
_LOGIN_VARIABLES = ("HOME", "USER", "LOGNAME", "PATH", "LANG")
"""What a user's systemd gives its services, beside what concerns neither walrusd nor its configuration."""


class ServicePlan(NamedTuple):
    installation: Installation
    config_error: ConfigError | None
    """Why walrusd would not start as a service."""


def plan_service(ctx: CliContext, systemd: UserSystemd | str) -> ServicePlan:
    """This installation with the home as it is. Raises click.UsageError where there can be no service of it."""
    home = ctx.home_path()
    grace_s, refused = _read_grace(home, _service_environment(home, systemd))
    try:
        configured = paths.read_configured_socket(home)
        socket = paths.socket_path(ctx.socket, os.environ, home, configured=configured)
        unnamed = paths.socket_path(None, {"HOME": os.environ.get("HOME", "")}, home, configured=configured)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    installation = Installation(
        walrusd=_find_walrusd(),
        home=home,
        socket=socket,
        needs_socket_option=socket != unnamed,
        grace_s=grace_s,
        umask=_read_umask(),
    )
    return ServicePlan(installation, refused)


def works_only_in_this_shell(home: str) -> bool:
    """Whether what the service is refused for would do in this shell: it has variables that the service has not."""
    return _read_grace(home, os.environ)[1] is None


def _read_grace(home: str, environ: Mapping[str, str]) -> tuple[float, ConfigError | None]:
    # msgspec and the parsers are for commands that read the configuration alone.
    from walrus_config.load import load

    try:
        paths.check_home(home)
        return load(home, environ=environ).daemon.shutdown_grace_s, None
    except ConfigError as error:
        return _DEFAULT_GRACE_S, error


def _find_walrusd() -> str:
    """The walrusd beside this walrusctl, or beside the Python that runs it."""
    beside = [sys.argv[0]] if os.path.basename(sys.argv[0]) == "walrusctl" else []
    programs = [os.path.join(os.path.dirname(os.path.abspath(one)), "walrusd") for one in (*beside, sys.executable)]
    for program in programs:
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    raise click.UsageError(f"there is no walrusd beside this walrusctl: neither {' nor '.join(programs)} is a program")


def _read_umask() -> int:
    """Read as it can be: by setting it. No other thread is there to see it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _service_environment(home: str, systemd: UserSystemd | str) -> dict[str, str]:
    if isinstance(systemd, UserSystemd):
        given = dict(systemd.service_environment)
    else:
        given = {name: os.environ[name] for name in _LOGIN_VARIABLES if name in os.environ}
    try:
        with open(os.path.join(home, "environment"), encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
            if os.fstat(file.fileno()).st_mode & 0o044:
                print_error(f"others may read {file.name}", f"chmod 600 {file.name}")
    except OSError:
        return given
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            given[name.strip()] = _unquote(value.strip())
    return given


def _unquote(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
