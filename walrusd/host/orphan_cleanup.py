"""Finds and kills the process tools that a crashed walrusd has left running.

A pid alone does not identify a process: it may have been reused. A process is an orphan of ours in one of two cases.
Either it was recorded itself, with its start time and boot id; or it carries the marker of the call in its environment
and was started no earlier than the recorded process. If such a process is in the recorded group or session, that group
has existed without a break. All its members are ours then, whatever they have done to their environment.
"""

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from walrus_protocol.events import ProcessGroupId
from walrusd.host.kill import kill_all, wait_exited
from walrusd.host.procfs import ProcInfo, all_processes, boot_id, read_environment, read_proc

CALL_MARKER_VARIABLE = "WALRUS_CALL"
"""Environment variable with the marker of the call; a process tool and all that it starts have it."""
HOME_VARIABLE = "WALRUS_HOME"
EXIT_TIMEOUT_S = 5.0
"""Seconds to wait for killed processes to exit."""


def call_marker(session: int, turn: int, call_id: str) -> str:
    """Returns the value of CALL_MARKER_VARIABLE for a call.

    It is short and plain text, whatever call id a provider chose.
    """
    digest = blake2b(call_id.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{session}.{turn}.{digest}"


def kill_orphans(started: Sequence[tuple[ProcessGroupId, str]], home: str) -> list[int]:
    """Kills what is left of the process tools `started` on this home; returns the killed pids.

    Each tool comes with its marker. Blocks until they have exited, at most EXIT_TIMEOUT_S.
    """
    boot = boot_id()
    since_boot = [(process, marker) for process, marker in started if process.boot == boot]
    if not since_boot:
        return []
    spared = set(_own_and_ancestor_pids())

    def find() -> list[ProcInfo]:
        candidates = [(info, read_environment(info.pid)) for info in all_processes() if info.pid not in spared]
        return [info for process, marker in since_boot for info in _orphans_of(process, marker, home, candidates)]

    killed = kill_all(find)
    wait_exited(killed, EXIT_TIMEOUT_S)
    return sorted({info.pid for info in killed})


def _orphans_of(
    process: ProcessGroupId, marker: str, home: str, candidates: Sequence[tuple[ProcInfo, frozenset[bytes]]]
) -> Iterator[ProcInfo]:
    entries = {os.fsencode(f"{CALL_MARKER_VARIABLE}={marker}"), os.fsencode(f"{HOME_VARIABLE}={home}")}
    later = [(info, environment) for info, environment in candidates if info.start >= process.start]
    ours = [
        info
        for info, environment in later
        if (info.pid == process.pgid and info.start == process.start) or entries <= environment
    ]
    yield from ours
    if any(process.pgid in (info.pgid, info.sid) for info in ours):
        yield from (info for info, _ in later if process.pgid in (info.pgid, info.sid) and info not in ours)


def _own_and_ancestor_pids() -> Iterator[int]:
    """Yields the pids of this process and its ancestors.

    A tool of the previous walrusd may have started this one.
    """
    info = read_proc(os.getpid())
    while info is not None:
        yield info.pid
        info = read_proc(info.ppid)
