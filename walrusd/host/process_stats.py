"""Memory, descriptors, threads and children of this process, as the kernel counts them."""

import os
from pathlib import Path

from msgspec import Struct

from walrusd.host.procfs import descendants


class ProcessStats(Struct, frozen=True, kw_only=True):
    rss_bytes: int
    """Bytes of this process that are in RAM now."""
    fds: int
    threads: int
    children: int
    """Number of descendants of this process, including those that have exited and are not reaped."""


def read_process_stats() -> ProcessStats:
    """Reads the numbers from /proc. It blocks while it reads every descendant of this process."""
    return ProcessStats(
        rss_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        fds=len(os.listdir("/proc/self/fd")) - 1,  # without the one that lists them
        threads=len(os.listdir("/proc/self/task")),
        children=len(descendants(os.getpid())),
    )
