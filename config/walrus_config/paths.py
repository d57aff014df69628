"""The folders: where the home is, what is where in it, and whether the home is safe to use.

Standard library only, and little of it: walrusctl imports this before it says a word. The environment is handed in.
"""

import os
import pwd
import re
import stat
from collections.abc import Mapping
from typing import NamedTuple

from walrus_config.errors import config_error

SOCKET_PATH_LIMIT = 107
"""Bytes: sun_path of AF_UNIX holds 108, the closing NUL among them."""


class Paths(NamedTuple):
    """What lives in a home. The socket may live elsewhere: see `socket_path`."""

    home: str
    toml: str
    agents: str
    database: str
    lock: str
    logs: str
    workspace: str


def home_paths(home: str) -> Paths:
    return Paths(
        home=home,
        toml=os.path.join(home, "walrus.toml"),
        agents=os.path.join(home, "agents"),
        database=os.path.join(home, "walrus.db"),
        lock=os.path.join(home, "walrusd.lock"),
        logs=os.path.join(home, "logs"),
        workspace=os.path.join(home, "workspace"),
    )


def expand(path: str, environ: Mapping[str, str], *, base: str) -> str:
    """`path` made absolute: a leading ~ is the user's folder, anything else relative is from `base`.

    Raises ConfigError for a ~ of a user who has no folder.
    """
    head, slash, rest = path.partition("/")
    if head == "~":
        path = (environ.get("HOME") or _user_home(path)) + slash + rest
    elif head.startswith("~"):
        path = os.path.expanduser(path)
    return os.path.normpath(os.path.join(base, path))


def home_path(flag: str | None, environ: Mapping[str, str]) -> str:
    """The home: `--home`, else WALRUS_HOME, else ~/.openwalrus. Raises ConfigError, as `expand` does."""
    return _absolute_from_cwd(flag or environ.get("WALRUS_HOME") or "~/.openwalrus", environ)


def socket_path(flag: str | None, environ: Mapping[str, str], home: str, *, configured: str = "") -> str:
    """The socket: `--socket`, else WALRUS_SOCKET, else [daemon] socket, else walrus.sock in the home.

    Raises ConfigError for a path that does not fit into a socket address.
    """
    if given := flag or environ.get("WALRUS_SOCKET"):
        path = _absolute_from_cwd(given, environ)
    else:
        path = expand(configured or "walrus.sock", environ, base=home)
    if (size := len(os.fsencode(path))) > SOCKET_PATH_LIMIT:
        raise config_error(
            path,
            f"the path of the socket has {size} bytes; the system takes at most {SOCKET_PATH_LIMIT}",
            "choose a shorter one with --socket, WALRUS_SOCKET or [daemon] socket, or a home nearer the root",
        )
    return path


def read_configured_socket(home: str) -> str:
    """[daemon] socket of the home's walrus.toml as it is written there, for a client that does not load the rest.

    Empty where there is none, and where the file cannot be read: the daemon, not its client, says what is wrong.
    """
    try:
        with open(home_paths(home).toml, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""
    # Parsing takes milliseconds, and nearly no file names a socket: most commands can do without.
    if not re.search(r"^(?!\s*#).*socket.*=", text, re.MULTILINE):
        return ""
    import tomllib

    try:
        daemon = tomllib.loads(text).get("daemon")
    except (ValueError, RecursionError):
        return ""
    socket = daemon.get("socket") if isinstance(daemon, dict) else None
    return socket if isinstance(socket, str) else ""


def prepare_home(home: str) -> bool:
    """Make the home where there is none, and check the one there is; answers whether it was made.

    Raises ConfigError, as `check_home` does.
    """
    made = make_folder(home)
    check_home(home)
    return made


def check_home(home: str, uid: int | None = None) -> None:
    """Raises ConfigError for a home that is not there, is not a folder, is not of user `uid` (of this process's where
    None), may be written by group or others, cannot be written by us, or has a name that cannot be told.
    """
    uid = os.geteuid() if uid is None else uid
    if not _is_utf8(home):
        raise config_error(
            home,
            "the path of the home is no text in UTF-8, as clients and the database have to be told it",
            "choose another with WALRUS_HOME; where it is UTF-8, LC_ALL=C.UTF-8 tells Python so",
        )
    try:
        status = os.stat(home)
    except FileNotFoundError as error:
        if os.path.islink(home):
            to = os.readlink(home)
            raise config_error(
                home, f"there is no such folder: it is a link to {to}", f"make {to}, or remove the link"
            ) from error
        raise config_error(home, "there is no such folder", "`make run` or `walrusd --init` makes it") from error
    except OSError as error:
        raise config_error(
            home, f"the home cannot be used: {error.strerror}", "choose another with WALRUS_HOME"
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise config_error(home, "the home is not a folder", "choose another with WALRUS_HOME")
    if status.st_uid != uid:
        raise config_error(
            home,
            f"the home belongs to {user_name(status.st_uid)}, and walrusd runs as {user_name(uid)}",
            "run walrusd as its owner, or choose another with WALRUS_HOME",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise config_error(
            home,
            f"group or others may write the home (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 700 {home}",
        )
    if os.statvfs(home).f_flag & os.ST_RDONLY:
        raise config_error(
            home,
            "the home is on a file system that may only be read",
            "mount it for writing (where it was so before, `dmesg` says what happened), or choose another home",
        )
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise config_error(home, "the home cannot be written", f"chmod 700 {home}, or choose another with WALRUS_HOME")


def make_folder(path: str) -> bool:
    """Make a folder that only its owner may enter, and those above it that are missing; False where it exists.

    Raises ConfigError where that cannot be.
    """
    if os.path.lexists(path):
        return False
    parent = os.path.dirname(path)
    if parent != path:
        make_folder(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    except OSError as error:
        raise config_error(
            path, f"the folder cannot be made: {error.strerror}", "choose another with WALRUS_HOME"
        ) from error
    return True


def _absolute_from_cwd(path: str, environ: Mapping[str, str]) -> str:
    try:
        return os.path.abspath(expand(path, environ, base=""))
    except FileNotFoundError:  # asked for where it matters only: an absolute path needs no current folder
        raise config_error(path, "the current folder is gone", "name it from the root") from None


def _user_home(path: str) -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        raise config_error(path, f"no home is known for uid {uid}", "set HOME or WALRUS_HOME") from None


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_name(uid: int) -> str:
    """As a person knows the user; the number where it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
