"""What /proc says of the processes of this machine: who is there, since when, and whose child it is."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct


class ProcInfo(Struct, frozen=True):
    """A process as it was when it was looked at. `pid` and `start` together name it: both stay when it execs."""

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
        """It runs no more; what is left is a status that its parent has not taken."""
        return self.state in "ZX"


def read_proc(pid: int) -> ProcInfo | None:
    """None for a process that has gone or is hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return None
    # pid (name) state parent …: the name is whatever the process says, spaces and parentheses too: count from its end.
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
    """All processes. One that comes or goes meanwhile may be missing. 10 µs for each that the machine has."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (seen := read_proc(int(name))) is not None:
            yield seen


def child_pids(pid: int) -> list[int]:
    """Of all its threads; those included that have ended and are not reaped."""
    try:
        return listed_child_pids(pid)
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN; or the process has gone, and has none
        return scanned_child_pids(pid)


def listed_child_pids(pid: int) -> list[int]:
    """As the kernel lists them. Raises FileNotFoundError where it does not."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
        except (FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/task/{thread}").exists():
                raise
    return found


def scanned_child_pids(pid: int) -> list[int]:
    """As a look at every process finds them."""
    return [seen.pid for seen in all_processes() if seen.ppid == pid]


def descendants(pid: int, excluding: Collection[tuple[int, int]] = ()) -> list[ProcInfo]:
    """Its children and theirs, `but` for who is named here by pid and start, and for whom these have started.

    Orphans are found where the process adopts them; none is missed there.
    """
    found: dict[int, ProcInfo | None] = {}
    while waiting := [child for child in child_pids(pid) if child not in found]:  # orphaned while we looked elsewhere
        while waiting:
            child = waiting.pop()
            if child in found:
                continue
            seen = read_proc(child)
            if seen is not None and (seen.pid, seen.start) in excluding:
                found[child] = None
            else:
                found[child] = seen
                waiting += child_pids(child)
    return [seen for seen in found.values() if seen is not None]


def read_environment(pid: int) -> frozenset[bytes]:
    """NAME=value as it was at its last exec; empty where it is not ours to see."""
    with suppress(OSError):
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return frozenset()


def boot_id() -> str:
    """Another one after every start of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
