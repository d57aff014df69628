"""What this process takes of the machine, as the kernel counts it."""

import os
from pathlib import Path

from msgspec import Struct

from walrusd.host.procfs import descendants


class ProcessStats(Struct, frozen=True, kw_only=True):
    rss_bytes: int
    fds: int
    threads: int
    children: int
    """Processes that descend from this one, those included that have ended and are not reaped."""


def read_process_stats() -> ProcessStats:
    """Blocks for as long as it takes to look at every process that descends from this one."""
    return ProcessStats(
        rss_bytes=read_rss_bytes(),
        fds=count_open_fds(),
        threads=count_threads(),
        children=len(descendants(os.getpid())),
    )


def read_rss_bytes() -> int:
    """The memory of this process that is in RAM now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count_open_fds() -> int:
    """Descriptors of this process, without the one that looks."""
    return len(os.listdir("/proc/self/fd")) - 1


def count_threads() -> int:
    return len(os.listdir("/proc/self/task"))
