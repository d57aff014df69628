"""The units of this installation: the templates of systemd/ filled in, and what lies of them in the user's folder."""

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
"""What a stop may take beyond the grace: the last words to clients, the ends of tools, the store's last writes."""

UnitState = Literal["absent", "current", "outdated", "of another home", "edited", "foreign"]
"""outdated: written by an installation that differed; of another home: by one that serves another home, which would
lose its service; edited: by a hand since; foreign: not written by walrusctl."""
START_COMMAND = f"systemctl --user start {' '.join(NAMES)}"

_HEADER = """\
# Written by `walrusctl service install`. Change it with `systemctl --user edit {name}`, which install leaves alone.
# sha256 of what follows: {digest}
"""
_HEADER_PATTERN = re.compile(r"# Written by `walrusctl service install`.*\n# sha256 of what follows: ([0-9a-f]{64})\n")
_EXEC_START = re.compile(r"^ExecStart=(.*)$", re.MULTILINE)
_QUOTED_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Installation(NamedTuple):
    """What the templates lack."""

    walrusd: str
    home: str
    socket: str
    needs_socket_option: bool
    """Whether walrusd has to be told of the socket: neither its home nor walrus.toml says it."""
    grace_s: float
    umask: int

    @property
    def environment(self) -> str:
        """The file with keys that the service reads."""
        return os.path.join(self.home, "environment")


def unit_folder(environ: Mapping[str, str]) -> str:
    """Where a user's own units lie."""
    config = environ.get("XDG_CONFIG_HOME", "")
    # XDG has a relative one ignored, and so does systemd.
    return os.path.join(config if os.path.isabs(config) else os.path.expanduser("~/.config"), "systemd", "user")


def render_units(installation: Installation) -> dict[str, str]:
    """The text of each unit, by its name. Raises click.UsageError for a path that no unit can carry."""
    for path in (installation.walrusd, installation.home, installation.socket):
        if not path.isprintable() or path != path.strip() or path.endswith("\\"):
            raise click.UsageError(f"{path!r} cannot stand in a unit of systemd; choose a plainer path")
    told = [
        "--home",
        installation.home,
        *(["--socket", installation.socket] if installation.needs_socket_option else []),
    ]
    values = {
        "EXEC": _format_command(installation.walrusd, *told),
        "SOCKET": _escape_specifiers(installation.socket),
        "ENVIRONMENT": _escape_specifiers(glob.escape(installation.environment)),
        "STOP_S": str(math.ceil(installation.grace_s) + STOP_MARGIN_S),
        "UMASK": f"{installation.umask:04o}",
    }
    return {name: _fill_template(name, values) for name in NAMES}


def read_home(folder: str) -> str | None:
    """The home that the service in the folder serves; None where there is none of ours, or a hand has changed that."""
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
    """The home that the service in the folder serves, where that is not `home`."""
    theirs = read_home(folder)
    return theirs if theirs is not None and os.path.realpath(theirs) != os.path.realpath(home) else None


def is_installed_for(folder: str, home: str) -> bool:
    """Whether the service in the folder is that of the home, or may be."""
    return os.path.lexists(os.path.join(folder, SERVICE)) and find_other_home(folder, home) is None


def read_states(folder: str, home: str, wanted: Mapping[str, str]) -> dict[str, UnitState]:
    """What lies in the folder of each unit; `wanted` is what install would write for the home, where that is known."""
    lying = {name: read_state(os.path.join(folder, name), wanted.get(name)) for name in NAMES}
    if find_other_home(folder, home) is None:
        return lying
    return {name: state if state in ("absent", "foreign") else "of another home" for name, state in lying.items()}


def read_state(path: str, wanted: str | None) -> UnitState:
    """What lies at `path`, where `wanted` is the text that install would write; None where that cannot be said."""
    if not os.path.lexists(path):
        return "absent"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError:
        return "foreign"
    marked = None if os.path.islink(path) else _HEADER_PATTERN.match(text)
    if marked is None:
        return "foreign"
    if _digest(text[marked.end() :]) != marked[1]:
        return "edited"
    return "current" if wanted is None or text == wanted else "outdated"


def write_unit(folder: str, name: str, text: str) -> str:
    """Put a unit into the folder, whole or not at all; its path. Raises OSError."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    new = f"{path}.{os.getpid()}"  # no suffix of a unit: systemd does not read it
    try:
        with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(new, path)
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise
    return path


def remove_unit(folder: str, name: str) -> str:
    """Take a unit out of the folder, and the links that enabled it; its path. Raises OSError."""
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
    # Beside this file where it was installed, one folder up in a checkout.
    installed = os.path.join(here, "systemd", name)
    path = installed if os.path.exists(installed) else os.path.join(os.path.dirname(here), "systemd", name)
    with open(path, encoding="utf-8") as file:
        return file.read()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _escape_specifiers(path: str) -> str:
    return path.replace("%", "%%")


def _format_command(program: str, *arguments: str) -> str:
    """The line that runs a program. A variable is looked for in arguments, and not in the program's own path."""
    return " ".join([_quote(program), *(_quote(word).replace("$", "$$") for word in arguments)])


def _parse_arguments(command: str) -> list[str]:
    """What `_command` was told; nothing of a line that it does not write."""
    words = _QUOTED_WORD.findall(command)
    if " ".join(f'"{word}"' for word in words) != command:
        return []
    return [re.sub(r"\\(.)", r"\1", word.replace("$$", "$")).replace("%%", "%") for word in words[1:]]


def _quote(word: str) -> str:
    escaped = _escape_specifiers(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
