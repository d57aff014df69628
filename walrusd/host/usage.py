"""What this process takes of the machine, as the kernel counts it."""

import os
from pathlib import Path

from msgspec import Struct

from walrusd.host.procfs import descendants


class Usage(Struct, frozen=True, kw_only=True):
    rss_bytes: int
    fds: int
    threads: int
    children: int
    """Processes that descend from this one, those included that have ended and are not reaped."""


def usage() -> Usage:
    """Blocks for as long as it takes to look at every process that descends from this one."""
    return Usage(rss_bytes=rss_bytes(), fds=open_files(), threads=threads(), children=len(descendants(os.getpid())))


def rss_bytes() -> int:
    """The memory of this process that is in RAM now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Descriptors of this process, without the one that looks."""
    return len(os.listdir("/proc/self/fd")) - 1


def threads() -> int:
    return len(os.listdir("/proc/self/task"))
