"""What a walrusd that died has left running: the groups of its process tools, found again and ended.

A number alone names nobody: by now it may be another's. A process is one of ours if it was written down itself, with
its start and the kernel's boot, or if it carries the mark of the call in its environment and was started no earlier.
Where one of these is in the group or the session that was written down, that group has existed ever since, and all
who are in it are ours, whatever they have done to their environment.
"""

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from walrus_protocol.events import ProcessGroupId
from walrusd.host.kill import kill_all, wait_exited
from walrusd.host.procfs import ProcInfo, all_processes, boot_id, read_environment, read_proc

CALL_MARKER_VARIABLE = "WALRUS_CALL"
"""The environment variable that every process tool, and whatever it starts, carries."""
HOME_VARIABLE = "WALRUS_HOME"
EXIT_TIMEOUT_S = 5.0
"""How long the killed may take to end."""


def call_marker(session: int, turn: int, call_id: str) -> str:
    """The value of MARK for a call. Providers choose call ids as they like; the mark is short and plain."""
    digest = blake2b(call_id.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{session}.{turn}.{digest}"


def kill_orphans(started: Sequence[tuple[ProcessGroupId, str]], home: str) -> list[int]:
    """Kill what is left of process tools that were started, each with its mark, on this home; answer their pids.

    Blocks until they have ended, END_S at most.
    """
    boot = boot_id()
    since_boot = [(process, mark) for process, mark in started if process.boot == boot]
    if not since_boot:
        return []
    spared = set(_own_and_ancestor_pids())

    def find() -> list[ProcInfo]:
        there = [(seen, read_environment(seen.pid)) for seen in all_processes() if seen.pid not in spared]
        return [seen for process, mark in since_boot for seen in _orphans_of(process, mark, home, there)]

    killed = kill_all(find)
    wait_exited(killed, EXIT_TIMEOUT_S)
    return sorted({seen.pid for seen in killed})


def _orphans_of(
    process: ProcessGroupId, marker: str, home: str, candidates: Sequence[tuple[ProcInfo, frozenset[bytes]]]
) -> Iterator[ProcInfo]:
    entries = {os.fsencode(f"{CALL_MARKER_VARIABLE}={marker}"), os.fsencode(f"{HOME_VARIABLE}={home}")}
    later = [(seen, environment) for seen, environment in candidates if seen.start >= process.start]
    ours = [
        seen
        for seen, environment in later
        if (seen.pid == process.pgid and seen.start == process.start) or entries <= environment
    ]
    yield from ours
    if any(process.pgid in (seen.pgid, seen.sid) for seen in ours):
        yield from (seen for seen, _ in later if process.pgid in (seen.pgid, seen.sid) and seen not in ours)


def _own_and_ancestor_pids() -> Iterator[int]:
    """This process and those it descends from: walrusd may have been started by a tool of the one before."""
    seen = read_proc(os.getpid())
    while seen is not None:
        yield seen.pid
        seen = read_proc(seen.ppid)
