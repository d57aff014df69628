"""Doctor checks of the machine: disk space, the clock, and the limit of open files."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from walrus_config.errors import ConfigError
from walrus_config.fd_budget import FDS_PER_TURN, IDLE_DAEMON_FDS, MIN_FDS, compute_connection_limit
from walrus_protocol.database.reader import DatabaseReader, DatabaseUnreadable
from walrusctl.doctor.check import Finding
from walrusctl.doctor.context import DoctorContext
from walrusctl.formatting import format_time
from walrusctl.systemctl import run_program

GIB = 1024**3
LOW_SPACE_BYTES = GIB
"""Free bytes below which there is a warning; a busy walrusd writes as much in a month."""
MIN_SPACE_BYTES = 16 * 1024 * 1024
"""Free bytes below which it is an error; SQLite needs some free space even to release space."""
LOW_SPACE_SHARE = 0.05
"""Free share of the disk below which there is a warning, unless LOW_SPACE_MAX_BYTES are free."""
LOW_SPACE_MAX_BYTES = 10 * GIB
"""Free bytes that are enough on any disk; a twentieth of a large disk is more than needed."""
LOW_INODES = 1000
"""Free inodes below which there is a warning."""
CLOCK_TOLERANCE_S = 60.0
"""Seconds by which a clock may be corrected without a warning."""
TIMEDATECTL_TIMEOUT_S = 2.0
"""Seconds for timedatectl, which sends a D-Bus request."""


def check_disk(context: DoctorContext) -> Iterator[Finding]:
    folder = context.home
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    disk = os.statvfs(folder)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    space = f"{_format_size(free)} of {_format_size(size)} free on the file system of {folder}"
    if free < MIN_SPACE_BYTES:
        yield Finding("error", space, "free disk space; until then walrusd accepts no new work, but loses nothing")
    elif disk.f_files and not disk.f_favail:
        yield Finding("error", f"no inode is free on the file system of {folder}", "remove files; see `df -i`")
    elif free < LOW_SPACE_BYTES or (free < LOW_SPACE_MAX_BYTES and free < size * LOW_SPACE_SHARE):
        yield Finding("warning", space, "free disk space before it is full")
    elif disk.f_files and disk.f_favail < LOW_INODES:
        message = f"{disk.f_favail} inodes are free on the file system of {folder}"
        yield Finding("warning", message, "remove files before none is left; see `df -i`")
    else:
        yield Finding("ok", space)


def _format_size(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / 1024**2:,.1f} MiB"


def check_clock(context: DoctorContext) -> Iterator[Finding]:
    now = time.time()
    newest = _newest_event_time(context.paths.database)
    installed = os.stat(__file__).st_mtime
    hint = "correct it with `timedatectl set-ntp true` or `date -s`"
    if newest is not None and now < newest - CLOCK_TOLERANCE_S:
        message = f"it shows {format_time(now)}, but the last event was written at {format_time(newest)}"
        yield Finding("warning", message, hint)
    elif now < installed - CLOCK_TOLERANCE_S:
        message = f"it shows {format_time(now)}, but this program was installed at {format_time(installed)}"
        yield Finding("warning", message, hint)
    elif _is_synchronised() is False:
        yield Finding("warning", "it is not synchronised", "enable it with `timedatectl set-ntp true`")
    else:
        yield Finding("ok", format_time(now))


def _newest_event_time(path: str) -> float | None:
    """Returns the Unix time of the last event; None if there is none or it cannot be read."""
    try:
        with DatabaseReader(path) as db:
            return db.newest_event_time()
    except DatabaseUnreadable:
        return None


def _is_synchronised() -> bool | None:
    """Whether the clock is synchronised by NTP; None if unknown."""
    if os.path.exists("/run/systemd/timesync/synchronized"):
        return True
    command = ("timedatectl", "show", "--property=NTPSynchronized", "--value")
    try:
        done = run_program(os.environ, *command, timeout_s=TIMEDATECTL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


def check_limits(context: DoctorContext) -> Iterator[Finding]:
    from walrus_config.schema import DaemonSettings  # imports msgspec, which the configuration has loaded

    daemon = DaemonSettings() if isinstance(context.config, ConfigError) else context.config.daemon
    wanted, turns = daemon.max_connections, daemon.max_running_turns
    limit = _read_file_limit(context)
    process = "walrusd" if context.daemon else "a walrusd started from here"
    needed = IDLE_DAEMON_FDS + wanted + FDS_PER_TURN * turns
    hint = f"set LimitNOFILE={needed} in its unit, or `ulimit -n {needed}` before the start"
    supported = compute_connection_limit(limit, wanted, turns)
    if limit < MIN_FDS:
        message = f"{process} may open {limit} files, but needs at least {MIN_FDS}"
        yield Finding("error", message, hint)
    elif supported < wanted:
        message = f"{process} may open {limit} files: that is enough for {supported} of {wanted} connections"
        yield Finding("warning", message, hint)
    else:
        yield Finding("ok", f"{process} may open {limit} files, and needs at most {needed}")


def _read_file_limit(context: DoctorContext) -> int:
    """Returns the limit of open files of walrusd if it runs, otherwise of this process."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if context.daemon:
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{context.daemon.pid}/limits").read_text().splitlines()
            soft = next(line for line in lines if line.startswith("Max open files")).split()[3]
            limit = int(soft) if soft.isdigit() else resource.RLIM_INFINITY
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
