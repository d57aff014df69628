"""What a test has left running: processes that descend from this one, or that live in the test's folders.

Cheap enough for every test: only processes that were not there before are looked into.
"""

import os
import time

from walrusd.host.kill import wait_exited
from walrusd.host.procfs import ProcInfo, descendants, read_environment, read_proc

MAX_EXIT_WAIT_S = 10.0
"""For what was killed and has not ended yet."""


def all_pids() -> frozenset[int]:
    return frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())


def find_leaked_processes(before: frozenset[int], folder: str, max_wait_s: float = MAX_EXIT_WAIT_S) -> list[ProcInfo]:
    """Who is there that was not there before, and is ours; `folder` stands in the environment of those that are.

    Waits for those that are about to end. One that has ended and was not reaped is left, too.
    """
    deadline = time.monotonic() + max_wait_s
    while (found := _new_processes(before, folder)) and time.monotonic() < deadline:
        wait_exited(found, 0.1)
        time.sleep(0.001)
    return found


def _new_processes(before: frozenset[int], folder: str) -> list[ProcInfo]:
    found = {seen.pid: seen for seen in descendants(os.getpid()) if seen.pid not in before}
    for pid in all_pids() - before - found.keys():
        if any(folder.encode() in entry for entry in read_environment(pid)) and (seen := read_proc(pid)) is not None:
            found[pid] = seen
    return list(found.values())
