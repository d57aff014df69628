"""Memory, descriptors, threads and children of this process, as the kernel counts them."""

import os
from pathlib import Path

from msgspec import Struct

from walrusd.host.procfs import descendants


class ProcessStats(Struct, frozen=True, kw_only=True):
    rss_bytes: int
    fds: int
    threads: int
    children: int
    """Number of descendants of this process, including those that have exited and are not reaped."""


def read_process_stats() -> ProcessStats:
    """Reads the numbers from /proc. It blocks while it reads every descendant of this process."""
    return ProcessStats(
        rss_bytes=read_rss_bytes(),
        fds=count_open_fds(),
        threads=count_threads(),
        children=len(descendants(os.getpid())),
    )


def read_rss_bytes() -> int:
    """Returns the bytes of this process that are in RAM now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count_open_fds() -> int:
    """Returns the number of open descriptors, without the one that this function opens."""
    return len(os.listdir("/proc/self/fd")) - 1


def count_threads() -> int:
    return len(os.listdir("/proc/self/task"))
