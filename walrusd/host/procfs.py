"""What /proc says of the processes of this machine: who is there, since when, and whose child it is."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct


class Seen(Struct, frozen=True):
    """A process as it was when it was looked at. `pid` and `start` together name it: both stay when it execs."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    start: int
    """Clock ticks after the boot."""

    @property
    def ended(self) -> bool:
        """It runs no more; what is left is a status that its parent has not taken."""
        return self.state in "ZX"


def look(pid: int) -> Seen | None:
    """None for a process that has gone or is hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return None
    # pid (name) state parent …: the name is whatever the process says, spaces and parentheses too: count from its end.
    begin, end = stat.index(b"("), stat.rindex(b")")
    rest = stat[end + 1 :].split()
    return Seen(
        pid=pid,
        name=stat[begin + 1 : end].decode(errors="replace"),
        state=rest[0].decode(),
        parent=int(rest[1]),
        group=int(rest[2]),
        session=int(rest[3]),
        start=int(rest[19]),
    )


def everyone() -> Iterator[Seen]:
    """All processes. One that comes or goes meanwhile may be missing. 10 µs for each that the machine has."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (seen := look(int(name))) is not None:
            yield seen


def children(pid: int) -> list[int]:
    """Of all its threads; those included that have ended and are not reaped."""
    try:
        return listed_children(pid)
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN; or the process has gone, and has none
        return scanned_children(pid)


def listed_children(pid: int) -> list[int]:
    """As the kernel lists them. Raises FileNotFoundError where it does not."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
        except (FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/task/{thread}").exists():
                raise
    return found


def scanned_children(pid: int) -> list[int]:
    """As a look at every process finds them."""
    return [seen.pid for seen in everyone() if seen.parent == pid]


def descendants(pid: int, but: Collection[tuple[int, int]] = ()) -> list[Seen]:
    """Its children and theirs, `but` for who is named here by pid and start, and for whom these have started.

    Orphans are found where the process adopts them; none is missed there.
    """
    found: dict[int, Seen | None] = {}
    while waiting := [child for child in children(pid) if child not in found]:  # orphaned while we looked elsewhere
        while waiting:
            child = waiting.pop()
            if child in found:
                continue
            seen = look(child)
            if seen is not None and (seen.pid, seen.start) in but:
                found[child] = None
            else:
                found[child] = seen
                waiting += children(child)
    return [seen for seen in found.values() if seen is not None]


def environment_of(pid: int) -> frozenset[bytes]:
    """NAME=value as it was at its last exec; empty where it is not ours to see."""
    with suppress(OSError):
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return frozenset()


def boot_id() -> str:
    """Another one after every start of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
