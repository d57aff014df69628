"""The machine around walrusd: room on the disk, the clock, the limit of open files."""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from walrus_config.errors import ConfigError
from walrus_config.fd_budget import FDS_PER_TURN, IDLE_DAEMON_FDS, MIN_FDS, compute_connection_limit
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext
from walrusctl.doctor.database import newest_event_time
from walrusctl.formatting import format_time

GIB = 1024**3
LOW_SPACE_BYTES = GIB
"""A month of a busy daemon."""
MIN_SPACE_BYTES = 16 * 1024 * 1024
"""SQLite needs some of it to give any back."""
LOW_SPACE_SHARE = 0.05
LOW_SPACE_MAX_BYTES = 10 * GIB
"""A twentieth of a large disk is more than enough."""
LOW_INODES = 1000
CLOCK_TOLERANCE_S = 60.0
"""A clock may be put right by that much without a word."""
TIMEDATECTL_TIMEOUT_S = 2.0
"""For timedatectl, which asks over D-Bus."""


def check_disk(context: DoctorContext) -> Iterator[Check]:
    folder = context.home
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    disk = os.statvfs(folder)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    said = f"{_format_size(free)} of {_format_size(size)} free on the file system of {folder}"
    if free < MIN_SPACE_BYTES:
        yield Check("disk", "broken", said, "make room: walrusd takes no new work on a full disk, and loses nothing")
    elif disk.f_files and not disk.f_favail:
        yield Check("disk", "broken", f"no inode is free on the file system of {folder}", "remove files: `df -i` tells")
    elif free < LOW_SPACE_BYTES or (free < LOW_SPACE_MAX_BYTES and free < size * LOW_SPACE_SHARE):
        yield Check("disk", "warning", said, "make room before it is full")
    elif disk.f_files and disk.f_favail < LOW_INODES:
        message = f"{disk.f_favail} inodes are free on the file system of {folder}"
        yield Check("disk", "warning", message, "remove files before there are none: `df -i` tells")
    else:
        yield Check("disk", "fine", said)


def _format_size(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / 1024**2:,.1f} MiB"


def check_clock(context: DoctorContext) -> Iterator[Check]:
    now = time.time()
    newest = newest_event_time(context.paths.database) if os.path.exists(context.paths.database) else None
    installed = os.stat(__file__).st_mtime
    hint = "set it right: `timedatectl set-ntp true`, or `date -s`"
    if newest is not None and now < newest - CLOCK_TOLERANCE_S:
        message = f"it says {format_time(now)}, but the last event was written at {format_time(newest)}"
        yield Check("clock", "warning", message, hint)
    elif now < installed - CLOCK_TOLERANCE_S:
        message = f"it says {format_time(now)}, but this program was installed at {format_time(installed)}"
        yield Check("clock", "warning", message, hint)
    elif _is_synchronised() is False:
        yield Check("clock", "warning", "it is not synchronised with any other", "`timedatectl set-ntp true`")
    else:
        yield Check("clock", "fine", format_time(now))


def _is_synchronised() -> bool | None:
    """By NTP; None where nobody here can tell."""
    if os.path.exists("/run/systemd/timesync/synchronized"):
        return True
    if not (program := shutil.which("timedatectl")):
        return None
    try:
        told = subprocess.run(  # noqa: S603 - a fixed command
            [program, "show", "--property=NTPSynchronized", "--value"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEDATECTL_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(told.stdout.strip())


def check_limits(context: DoctorContext) -> Iterator[Check]:
    from walrus_config.schema import DaemonSettings  # msgspec's, loaded by now for the configuration

    daemon = DaemonSettings() if isinstance(context.config, ConfigError) else context.config.daemon
    wanted, turns = daemon.max_connections, daemon.max_running_turns
    limit = _read_file_limit(context)
    whose = "walrusd" if context.daemon else "a walrusd started from here"
    needed = IDLE_DAEMON_FDS + wanted + FDS_PER_TURN * turns
    hint = f"LimitNOFILE={needed} in its unit, or `ulimit -n {needed}` before the start"
    fit = compute_connection_limit(limit, wanted, turns)
    if limit < MIN_FDS:
        message = f"{whose} may open {limit} files, and needs {MIN_FDS} at the very least"
        yield Check("limits", "broken", message, hint)
    elif fit < wanted:
        message = f"{whose} may open {limit} files: that is enough for {fit} of {wanted} connections"
        yield Check("limits", "warning", message, hint)
    else:
        yield Check("limits", "fine", f"{whose} may open {limit} files, and needs at most {needed}")


def _read_file_limit(context: DoctorContext) -> int:
    """Of the daemon where it runs, of this process where it does not."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if context.daemon:
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{context.daemon.pid}/limits").read_text().splitlines()
            soft = next(line for line in lines if line.startswith("Max open files")).split()[3]
            limit = int(soft) if soft.isdigit() else resource.RLIM_INFINITY
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
