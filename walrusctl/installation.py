"""Which walrusd a service would run, on which home and socket, and whether it could: read as the service will be."""

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

import click

from walrus_config import paths
from walrus_config.problems import ConfigError
from walrusctl.invocation import Invocation
from walrusctl.output import complain
from walrusctl.systemctl import Manager
from walrusctl.units import Installation

_GRACE_S = 10.0
"""That of a configuration which does not say another."""
_OF_A_LOGIN = ("HOME", "USER", "LOGNAME", "PATH", "LANG")
"""What a user's systemd gives its services, beside what concerns neither walrusd nor its configuration."""


class Found(NamedTuple):
    installation: Installation
    refused: ConfigError | None
    """Why walrusd would not start as a service."""


def found(asked: Invocation, manager: Manager | str) -> Found:
    """This installation with the home as it is. Raises click.UsageError where there can be no service of it."""
    home = asked.home_path()
    grace_s, refused = _grace(home, _given_to_the_service(home, manager))
    try:
        configured = paths.configured_socket(home)
        socket = paths.socket_path(asked.socket, os.environ, home, configured=configured)
        unnamed = paths.socket_path(None, {"HOME": os.environ.get("HOME", "")}, home, configured=configured)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    installation = Installation(
        walrusd=_walrusd(),
        home=home,
        socket=socket,
        named_socket=socket != unnamed,
        grace_s=grace_s,
        umask=_umask(),
    )
    return Found(installation, refused)


def only_here(home: str) -> bool:
    """Whether what the service is refused for would do in this shell: it has variables that the service has not."""
    return _grace(home, os.environ)[1] is None


def _grace(home: str, environ: Mapping[str, str]) -> tuple[float, ConfigError | None]:
    # msgspec and the parsers are for commands that read the configuration alone.
    from walrus_config.load import load

    try:
        paths.check_home(home)
        return load(home, environ=environ).daemon.shutdown_grace_s, None
    except ConfigError as error:
        return _GRACE_S, error


def _walrusd() -> str:
    """The walrusd beside this walrusctl, or beside the Python that runs it."""
    beside = [sys.argv[0]] if os.path.basename(sys.argv[0]) == "walrusctl" else []
    programs = [os.path.join(os.path.dirname(os.path.abspath(one)), "walrusd") for one in (*beside, sys.executable)]
    for program in programs:
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    raise click.UsageError(f"there is no walrusd beside this walrusctl: neither {' nor '.join(programs)} is a program")


def _umask() -> int:
    """Read as it can be: by setting it. No other thread is there to see it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _given_to_the_service(home: str, manager: Manager | str) -> dict[str, str]:
    if isinstance(manager, Manager):
        given = dict(manager.gives)
    else:
        given = {name: os.environ[name] for name in _OF_A_LOGIN if name in os.environ}
    try:
        with open(os.path.join(home, "environment"), encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
            if os.fstat(file.fileno()).st_mode & 0o044:
                complain(f"others may read {file.name}", f"chmod 600 {file.name}")
    except OSError:
        return given
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            given[name.strip()] = _unquoted(value.strip())
    return given


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
