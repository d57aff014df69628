"""The home and its files: are they there, whose are they, and who else may read or write them?"""

import glob
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext

if TYPE_CHECKING:
    from walrus_config.schema import Config

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


def check_home(context: DoctorContext) -> Iterator[Check]:
    home = context.home
    try:
        paths.check_home(home, context.uid)
    except ConfigError as error:
        [problem] = error.problems
        yield Check("home", "broken", f"{home}: {problem.message}", problem.hint)
        return
    real, found = os.path.realpath(home), os.stat(home)
    where = home if real == home else f"{home}, which is {real}"
    whose = f"mode {stat.S_IMODE(found.st_mode):04o}, of {paths.user_name(found.st_uid)}"
    above = _find_replaceable_parent(real, context.uid)
    if above:
        hint = f"chmod go-w {above}, or move the home"
        yield Check("home", "warning", f"{where}: others may write {above} and put another home in its place", hint)
    elif context.uid != os.geteuid():
        hint = "let its owner start walrusd: what root makes in the home its owner cannot write"
        yield Check("home", "fine", f"{where}, {whose}; you are root", hint)
    else:
        yield Check("home", "fine", f"{where}, {whose}")


def _find_replaceable_parent(home: str, uid: int) -> str:
    """The nearest folder above in which others may rename what is ours; "" where there is none."""
    above = os.path.dirname(home)
    while above != os.path.dirname(above):
        found = os.stat(above)
        if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
            return above
        if found.st_uid not in (uid, 0):
            return above
        above = os.path.dirname(above)
    return ""


def check_files(context: DoctorContext) -> Iterator[Check]:
    """Those that walrusd writes have to be its user's; those it obeys may be written by nobody else."""
    where = context.paths
    written = [where.lock, where.logs, *(where.database + suffix for suffix in ("", "-wal", "-shm"))]
    secret = [where.toml, os.path.join(context.home, "environment"), *written, *_key_files(context.config)]
    obeyed = [where.agents, *glob.glob(os.path.join(glob.escape(where.agents), "*.md"))]
    found = {path: os.stat(path) for path in (*secret, *obeyed) if os.path.exists(path)}
    findings = [
        finding
        for path, status in found.items()
        if (finding := _check_file(path, status, context.uid, written=path in written, secret=path in secret))
    ]
    fine = Check("files", "fine", f"{len(found)} looked at; nobody else may write them or read what is secret")
    yield from findings or [fine]


def _key_files(config: "Config | ConfigError") -> list[str]:
    if isinstance(config, ConfigError):
        return []
    return [provider.api_key_file for provider in config.providers.values() if provider.api_key_file]


def _check_file(path: str, status: os.stat_result, uid: int, *, written: bool, secret: bool) -> Check | None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != uid and (written or status.st_uid != 0):
        message = f"{path} belongs to {paths.user_name(status.st_uid)}, and walrusd runs as {paths.user_name(uid)}"
        return Check("files", "broken", message, f"chown {paths.user_name(uid)} {path}")
    if mode & _OTHERS_WRITE:
        return Check("files", "broken", f"others may write {path} (mode {mode:04o})", f"chmod go-w {path}")
    if secret and mode & _OTHERS_READ:
        return Check("files", "warning", f"others may read {path} (mode {mode:04o})", f"chmod go-rwx {path}")
    return None
