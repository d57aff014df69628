"""Renders, reads, writes and removes walrusd's systemd units; the templates are in systemd/."""

import glob
import hashlib
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, NamedTuple

import click

SOCKET, SERVICE = "walrusd.socket", "walrusd.service"
NAMES = (SOCKET, SERVICE)
STOP_MARGIN_S = 60
"""Seconds a stop may take beyond the grace: last responses, ending tools, the store's last writes."""

UnitState = Literal["absent", "current", "outdated", "of another home", "edited", "foreign"]
"""The state of a unit's file compared with what install would write.

absent: no file. current: the same text. outdated: written by walrusctl for another installation or configuration.
of another home: the service of another home, which would lose it. edited: changed manually after walrusctl wrote it.
foreign: not written by walrusctl.
"""
START_COMMAND = f"systemctl --user start {' '.join(NAMES)}"

_HEADER = """\
# Written by `walrusctl service install`. Change it with `systemctl --user edit {name}`, which install leaves alone.
# sha256 of what follows: {digest}
"""
_HEADER_PATTERN = re.compile(r"# Written by `walrusctl service install`.*\n# sha256 of what follows: ([0-9a-f]{64})\n")
_EXEC_START = re.compile(r"^ExecStart=(.*)$", re.MULTILINE)
_QUOTED_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Installation(NamedTuple):
    """The values that the templates need."""

    walrusd: str
    home: str
    socket: str
    needs_socket_option: bool
    """Whether walrusd needs --socket, because neither its home nor walrus.toml gives this socket."""
    grace_s: float
    umask: int

    @property
    def environment(self) -> str:
        """The file of environment variables, such as keys, that the service reads."""
        return os.path.join(self.home, "environment")


def unit_folder(environ: Mapping[str, str]) -> str:
    """Returns the folder of the user's own units."""
    config = environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification and systemd ignore a relative path.
    return os.path.join(config if os.path.isabs(config) else os.path.expanduser("~/.config"), "systemd", "user")


def render_units(installation: Installation) -> dict[str, str]:
    """Returns the text of each unit by name. Raises click.UsageError for a path not allowed in units."""
    for path in (installation.walrusd, installation.home, installation.socket):
        if not path.isprintable() or path != path.strip() or path.endswith("\\"):
            raise click.UsageError(f"{path!r} cannot be written into a systemd unit; choose a simpler path")
    arguments = [
        "--home",
        installation.home,
        *(["--socket", installation.socket] if installation.needs_socket_option else []),
    ]
    values = {
        "EXEC": _format_command(installation.walrusd, *arguments),
        "SOCKET": _escape_specifiers(installation.socket),
        "ENVIRONMENT": _escape_specifiers(glob.escape(installation.environment)),
        "STOP_S": str(math.ceil(installation.grace_s) + STOP_MARGIN_S),
        "UMASK": f"{installation.umask:04o}",
    }
    return {name: _fill_template(name, values) for name in NAMES}


def read_home(folder: str) -> str | None:
    """Returns the home of the service in the folder, or None if it is unknown.

    It is unknown if walrusctl did not write the unit, or if the unit's command was changed.
    """
    try:
        with open(os.path.join(folder, SERVICE), encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError:
        return None
    command = _EXEC_START.search(text) if _HEADER_PATTERN.match(text) else None
    match _parse_arguments(command[1]) if command else []:
        case ["--home", home, *_]:
            return home
        case _:
            return None


def find_other_home(folder: str, home: str) -> str | None:
    """Returns the home of the service in the folder if it differs from `home`, otherwise None."""
    other = read_home(folder)
    return other if other is not None and os.path.realpath(other) != os.path.realpath(home) else None


def is_installed_for(folder: str, home: str) -> bool:
    """Whether there is a service in the folder that is, or may be, the service of the home."""
    return os.path.lexists(os.path.join(folder, SERVICE)) and find_other_home(folder, home) is None


def read_states(folder: str, home: str, wanted: Mapping[str, str]) -> dict[str, UnitState]:
    """Returns the state of each unit; `wanted` has the texts that install would write, if known."""
    states = {name: read_state(os.path.join(folder, name), wanted.get(name)) for name in NAMES}
    if find_other_home(folder, home) is None:
        return states
    return {name: state if state in ("absent", "foreign") else "of another home" for name, state in states.items()}


def read_state(path: str, wanted: str | None) -> UnitState:
    """Returns the state of a unit; `wanted` is the text that install would write, if known."""
    if not os.path.lexists(path):
        return "absent"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError:
        return "foreign"
    header = None if os.path.islink(path) else _HEADER_PATTERN.match(text)
    if header is None:
        return "foreign"
    if _digest(text[header.end() :]) != header[1]:
        return "edited"
    return "current" if wanted is None or text == wanted else "outdated"


def write_unit(folder: str, name: str, text: str) -> str:
    """Writes a unit completely or not at all; returns its path. Raises OSError."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    temporary = f"{path}.{os.getpid()}"  # not the suffix of a unit: systemd does not read it
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return path


def remove_unit(folder: str, name: str) -> str:
    """Removes a unit and the links that enabled it; returns its path. Raises OSError."""
    path = os.path.join(folder, name)
    for link in glob.glob(os.path.join(glob.escape(folder), "*.wants", name)):
        if os.path.islink(link):
            os.unlink(link)
    os.unlink(path)
    return path


def _fill_template(name: str, values: Mapping[str, str]) -> str:
    text = re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], _read_template(name))
    return _HEADER.format(name=name, digest=_digest(text)) + text


def _read_template(name: str) -> str:
    here = os.path.dirname(os.path.abspath(__file__))
    # In an installation the folder is beside this file, in a checkout one level up.
    installed = os.path.join(here, "systemd", name)
    path = installed if os.path.exists(installed) else os.path.join(os.path.dirname(here), "systemd", name)
    with open(path, encoding="utf-8") as file:
        return file.read()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _escape_specifiers(path: str) -> str:
    return path.replace("%", "%%")


def _format_command(program: str, *arguments: str) -> str:
    """Returns an ExecStart command; systemd expands variables in arguments, not in the program's path."""
    return " ".join([_quote(program), *(_quote(word).replace("$", "$$") for word in arguments)])


def _parse_arguments(command: str) -> list[str]:
    """Returns the arguments in a command of `_format_command`; empty for any other command."""
    words = _QUOTED_WORD.findall(command)
    if " ".join(f'"{word}"' for word in words) != command:
        return []
    return [re.sub(r"\\(.)", r"\1", word.replace("$$", "$")).replace("%%", "%") for word in words[1:]]


def _quote(word: str) -> str:
    escaped = _escape_specifiers(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
