"""Reads processes from /proc: their names, parents, groups, start times and environments, and our own resources."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct


class ProcInfo(Struct, frozen=True):
    """A process at the time of reading, identified by `pid` and `start`; an exec changes neither."""

    pid: int
    name: str
    state: str
    ppid: int
    pgid: int
    sid: int
    start: int
    """Clock ticks after the boot."""

    @property
    def has_exited(self) -> bool:
        """Whether it has exited and only waits to be reaped by its parent."""
        return self.state in "ZX"


def read_proc(pid: int) -> ProcInfo | None:
    """Returns the process, or None if it has been reaped or is hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return None
    # "pid (name) state parent …": a process chooses its name, also with spaces and parentheses: count from its end.
    begin, end = stat.index(b"("), stat.rindex(b")")
    rest = stat[end + 1 :].split()
    return ProcInfo(
        pid=pid,
        name=stat[begin + 1 : end].decode(errors="replace"),
        state=rest[0].decode(),
        ppid=int(rest[1]),
        pgid=int(rest[2]),
        sid=int(rest[3]),
        start=int(rest[19]),
    )


def all_processes() -> Iterator[ProcInfo]:
    """Yields all processes; one that starts or exits meanwhile may be missing. Takes 10 µs for each."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := read_proc(int(name))) is not None:
            yield process


def child_pids(pid: int) -> list[int]:
    """Returns the pids of the children of all its threads, including unreaped ones."""
    try:
        return listed_child_pids(pid)
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN; or the process has exited, and has none
        return scanned_child_pids(pid)


def listed_child_pids(pid: int) -> list[int]:
    """Returns the children that the kernel lists. Raises FileNotFoundError if it does not list them."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
        except (FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/task/{thread}").exists():
                raise
    return found


def scanned_child_pids(pid: int) -> list[int]:
    """Returns the children that a scan of all processes finds."""
    return [process.pid for process in all_processes() if process.ppid == pid]


def descendants(pid: int, excluding: Collection[tuple[int, int]] = ()) -> list[ProcInfo]:
    """Returns the descendants of a process.

    Processes in `excluding` (pid and start) and their descendants are left out. Orphans are found if the process adopts
    them; none of those is missed.
    """
    found: dict[int, ProcInfo | None] = {}
    # The outer loop finds processes that were orphaned, and so became children of `pid`, during the scan.
    while unvisited := [child for child in child_pids(pid) if child not in found]:
        while unvisited:
            child = unvisited.pop()
            if child in found:
                continue
            process = read_proc(child)
            if process is not None and (process.pid, process.start) in excluding:
                found[child] = None
            else:
                found[child] = process
                unvisited += child_pids(child)
    return [process for process in found.values() if process is not None]


def read_environment(pid: int) -> frozenset[bytes]:
    """Returns the NAME=value entries of its last exec; empty if we may not read them."""
    with suppress(OSError):
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return frozenset()


def boot_id() -> str:
    """Returns the boot id, which changes with every start of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


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
