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

from walrus_config.limits import FILES_OF_A_TURN, LEAST_FILES, OWN_FILES, connections_that_fit
from walrus_config.problems import ConfigError
from walrusctl.doctor.check import Check
from walrusctl.doctor.database import newest_event
from walrusctl.doctor.patient import Patient
from walrusctl.render import when

GIB = 1024**3
LITTLE_ROOM = GIB
"""A month of a busy daemon."""
NO_ROOM = 16 * 1024 * 1024
"""SQLite needs some of it to give any back."""
LITTLE_SHARE = 0.05
LITTLE_OF_A_LARGE_DISK = 10 * GIB
"""A twentieth of a large disk is more than enough."""
FEW_INODES = 1000
STEP_S = 60.0
"""A clock may be put right by that much without a word."""
TELL_S = 2.0
"""For timedatectl, which asks over D-Bus."""


def look_at_disk(patient: Patient) -> Iterator[Check]:
    folder = patient.home
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    disk = os.statvfs(folder)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    said = f"{_size(free)} of {_size(size)} free on the file system of {folder}"
    if free < NO_ROOM:
        yield Check("disk", "broken", said, "make room: walrusd takes no new work on a full disk, and loses nothing")
    elif disk.f_files and not disk.f_favail:
        yield Check("disk", "broken", f"no inode is free on the file system of {folder}", "remove files: `df -i` tells")
    elif free < LITTLE_ROOM or (free < LITTLE_OF_A_LARGE_DISK and free < size * LITTLE_SHARE):
        yield Check("disk", "warning", said, "make room before it is full")
    elif disk.f_files and disk.f_favail < FEW_INODES:
        message = f"{disk.f_favail} inodes are free on the file system of {folder}"
        yield Check("disk", "warning", message, "remove files before there are none: `df -i` tells")
    else:
        yield Check("disk", "fine", said)


def _size(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / 1024**2:,.1f} MiB"


def look_at_clock(patient: Patient) -> Iterator[Check]:
    now = time.time()
    newest = newest_event(patient.paths.database) if os.path.exists(patient.paths.database) else None
    installed = os.stat(__file__).st_mtime
    hint = "set it right: `timedatectl set-ntp true`, or `date -s`"
    if newest is not None and now < newest - STEP_S:
        message = f"it says {when(now)}, but the last event was written at {when(newest)}"
        yield Check("clock", "warning", message, hint)
    elif now < installed - STEP_S:
        message = f"it says {when(now)}, but this program was installed at {when(installed)}"
        yield Check("clock", "warning", message, hint)
    elif _synchronised() is False:
        yield Check("clock", "warning", "it is not synchronised with any other", "`timedatectl set-ntp true`")
    else:
        yield Check("clock", "fine", when(now))


def _synchronised() -> bool | None:
    """By NTP; None where nobody here can tell."""
    if os.path.exists("/run/systemd/timesync/synchronized"):
        return True
    if not (program := shutil.which("timedatectl")):
        return None
    try:
        told = subprocess.run(  # noqa: S603 - a fixed command
            [program, "show", "--property=NTPSynchronized", "--value"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TELL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(told.stdout.strip())


def look_at_limits(patient: Patient) -> Iterator[Check]:
    from walrus_config.schema import Daemon  # msgspec's, loaded by now for the configuration

    daemon = Daemon() if isinstance(patient.config, ConfigError) else patient.config.daemon
    wanted, turns = daemon.max_connections, daemon.max_running_turns
    limit = _file_limit(patient)
    whose = "walrusd" if patient.daemon else "a walrusd started from here"
    needed = OWN_FILES + wanted + FILES_OF_A_TURN * turns
    hint = f"LimitNOFILE={needed} in its unit, or `ulimit -n {needed}` before the start"
    fit = connections_that_fit(limit, wanted, turns)
    if limit < LEAST_FILES:
        message = f"{whose} may open {limit} files, and needs {LEAST_FILES} at the very least"
        yield Check("limits", "broken", message, hint)
    elif fit < wanted:
        message = f"{whose} may open {limit} files: that is enough for {fit} of {wanted} connections"
        yield Check("limits", "warning", message, hint)
    else:
        yield Check("limits", "fine", f"{whose} may open {limit} files, and needs at most {needed}")


def _file_limit(patient: Patient) -> int:
    """Of the daemon where it runs, of this process where it does not."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if patient.daemon:
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{patient.daemon.pid}/limits").read_text().splitlines()
            soft = next(line for line in lines if line.startswith("Max open files")).split()[3]
            limit = int(soft) if soft.isdigit() else resource.RLIM_INFINITY
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
