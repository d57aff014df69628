"""Determines the paths of the home, its files and the socket, and checks that the home is safe to use.

It imports little, and only the standard library, because walrusctl imports it at each start. The environment is passed
as an argument.
"""

import os
import pwd
import re
import stat
from collections.abc import Mapping
from typing import NamedTuple

from walrus_config.errors import config_error

SOCKET_PATH_LIMIT = 107
"""Maximum bytes of a socket path: sun_path of AF_UNIX has 108, including the final NUL."""


class Paths(NamedTuple):
    """The paths of a home's files and folders. The socket may be elsewhere: see `socket_path`."""

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
    """Returns `path` as an absolute path.

    A leading ~ is the user's home folder; other paths are relative to `base`.

    Raises ConfigError for ~ if the user has no home folder.
    """
    head, slash, rest = path.partition("/")
    if head == "~":
        path = (environ.get("HOME") or _user_home(path)) + slash + rest
    elif head.startswith("~"):
        path = os.path.expanduser(path)
    return os.path.normpath(os.path.join(base, path))


def home_path(flag: str | None, environ: Mapping[str, str]) -> str:
    """Returns the home: `--home`, else WALRUS_HOME, else ~/.openwalrus. Raises ConfigError like `expand`."""
    return _absolute_from_cwd(flag or environ.get("WALRUS_HOME") or "~/.openwalrus", environ)


def socket_path(flag: str | None, environ: Mapping[str, str], home: str, *, configured: str = "") -> str:
    """Returns the path of the socket.

    The order is `--socket`, WALRUS_SOCKET, [daemon] socket, and walrus.sock in the home.

    Raises ConfigError for a path that does not fit into a socket address.
    """
    if explicit := flag or environ.get("WALRUS_SOCKET"):
        path = _absolute_from_cwd(explicit, environ)
    else:
        path = expand(configured or "walrus.sock", environ, base=home)
    if (size := len(os.fsencode(path))) > SOCKET_PATH_LIMIT:
        raise config_error(
            path,
            f"the path of the socket has {size} bytes; the system allows at most {SOCKET_PATH_LIMIT}",
            "choose a shorter one with --socket, WALRUS_SOCKET or [daemon] socket, or a home with a shorter path",
        )
    return path


def read_configured_socket(home: str) -> str:
    """Returns [daemon] socket of the home's walrus.toml, for clients that do not load the configuration.

    Returns "" if it is not set or the file cannot be read: the daemon reports what is wrong, not its client.
    """
    try:
        with open(home_paths(home).toml, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""
    # Parsing takes milliseconds, and nearly no file names a socket: most commands can skip it.
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
    """Creates the home if it is missing, and checks it; returns whether it was created.

    Raises ConfigError like `check_home`.
    """
    created = make_folder(home)
    check_home(home)
    return created


def check_home(home: str, uid: int | None = None) -> None:
    """Raises ConfigError if the home cannot be used safely.

    The home must be an existing folder that belongs to the user `uid` (default: the user of this process). The user
    must be able to write it, group and others must not, and its path must be UTF-8.
    """
    uid = os.geteuid() if uid is None else uid
    if not _is_utf8(home):
        raise config_error(
            home,
            "the path of the home is not UTF-8, as clients and the database require",
            "choose another with WALRUS_HOME; if the path is UTF-8, set LC_ALL=C.UTF-8",
        )
    try:
        status = os.stat(home)
    except FileNotFoundError as error:
        if os.path.islink(home):
            target = os.readlink(home)
            raise config_error(
                home, f"there is no such folder: it is a link to {target}", f"create {target}, or remove the link"
            ) from error
        raise config_error(home, "there is no such folder", "create it with `make run` or `walrusd --init`") from error
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
            "the home is on a read-only file system",
            "remount it for writing, or choose another home; `dmesg` may show why it became read-only",
        )
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise config_error(home, "the home is not writable", f"chmod 700 {home}, or choose another with WALRUS_HOME")


def make_folder(path: str) -> bool:
    """Creates a folder and its parents with mode 0700; returns False if the path already exists.

    Raises ConfigError if the folder cannot be created.
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
            path, f"the folder cannot be created: {error.strerror}", "choose another with WALRUS_HOME"
        ) from error
    return True


def _absolute_from_cwd(path: str, environ: Mapping[str, str]) -> str:
    try:
        return os.path.abspath(expand(path, environ, base=""))
    except FileNotFoundError:  # only for a relative path: an absolute one does not need the current folder
        raise config_error(path, "the current folder no longer exists", "use an absolute path") from None


def _user_home(path: str) -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        raise config_error(path, f"uid {uid} has no home folder", "set HOME or WALRUS_HOME") from None


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_name(uid: int) -> str:
    """Returns the name of a user, or "uid N" if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
