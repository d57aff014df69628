"""Doctor checks of the home and its files: owner, and permissions of other users."""

import glob
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrusctl.doctor.check import Finding
from walrusctl.doctor.context import DoctorContext

if TYPE_CHECKING:
    from walrus_config.schema import Config

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


def check_home(context: DoctorContext) -> Iterator[Finding]:
    home = context.home
    try:
        paths.check_home(home, context.uid)
    except ConfigError as error:
        [problem] = error.problems
        yield Finding("error", f"{home}: {problem.message}", problem.hint)
        return
    real, status = os.path.realpath(home), os.stat(home)
    where = home if real == home else f"{home} (a link to {real})"
    owner = f"mode {stat.S_IMODE(status.st_mode):04o}, owner {paths.user_name(status.st_uid)}"
    parent = _find_replaceable_parent(real, context.uid)
    if parent:
        hint = f"chmod go-w {parent}, or move the home"
        yield Finding("warning", f"{where}: other users may write {parent} and replace the home", hint)
    elif context.uid != os.geteuid():
        hint = "start walrusd as the owner: files that root creates in the home are not writable for the owner"
        yield Finding("ok", f"{where}, {owner}; you are root", hint)
    else:
        yield Finding("ok", f"{where}, {owner}")


def _find_replaceable_parent(home: str, uid: int) -> str:
    """Returns the nearest parent folder in which other users may rename entries; "" if there is none."""
    parent = os.path.dirname(home)
    while parent != os.path.dirname(parent):
        status = os.stat(parent)
        if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
            return parent
        if status.st_uid not in (uid, 0):
            return parent
        parent = os.path.dirname(parent)
    return ""


def check_files(context: DoctorContext) -> Iterator[Finding]:
    """Checks that walrusd's user owns the files it writes, and that no other user can write its input."""
    home_paths = context.paths
    written = [home_paths.lock, home_paths.logs, *(home_paths.database + suffix for suffix in ("", "-wal", "-shm"))]
    secret = [home_paths.toml, os.path.join(context.home, "environment"), *written, *_key_files(context.config)]
    agent_files = [home_paths.agents, *glob.glob(os.path.join(glob.escape(home_paths.agents), "*.md"))]
    statuses = {path: os.stat(path) for path in (*secret, *agent_files) if os.path.exists(path)}
    findings = [
        finding
        for path, status in statuses.items()
        if (finding := _check_file(path, status, context.uid, written=path in written, secret=path in secret))
    ]
    no_problem = Finding("ok", f"{len(statuses)} checked; no other user may write them or read the secret ones")
    yield from findings or [no_problem]


def _key_files(config: "Config | ConfigError") -> list[str]:
    if isinstance(config, ConfigError):
        return []
    return [provider.api_key_file for provider in config.providers.values() if provider.api_key_file]


def _check_file(path: str, status: os.stat_result, uid: int, *, written: bool, secret: bool) -> Finding | None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != uid and (written or status.st_uid != 0):
        message = f"{path} belongs to {paths.user_name(status.st_uid)}, but walrusd runs as {paths.user_name(uid)}"
        return Finding("error", message, f"chown {paths.user_name(uid)} {path}")
    if mode & _OTHERS_WRITE:
        return Finding("error", f"other users may write {path} (mode {mode:04o})", f"chmod go-w {path}")
    if secret and mode & _OTHERS_READ:
        return Finding("warning", f"other users may read {path} (mode {mode:04o})", f"chmod go-rwx {path}")
    return None
