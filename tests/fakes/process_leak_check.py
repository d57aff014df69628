"""Finds processes that a test left running.

These are descendants of this process, and processes that use the test's folders. The check is cheap enough for
every test, because only processes that started during the test are examined.
"""

import os
import time

from walrusd.host.kill import wait_exited
from walrusd.host.procfs import ProcInfo, descendants, read_environment, read_proc

MAX_EXIT_WAIT_S = 10.0
"""Seconds to wait for processes that were killed and have not ended yet."""


def all_pids() -> frozenset[int]:
    return frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())


def find_leaked_processes(before: frozenset[int], folder: str, max_wait_s: float = MAX_EXIT_WAIT_S) -> list[ProcInfo]:
    """Returns the processes that the test started and left running.

    They are not in `before`, and descend from this process or have `folder` in their environment. Waits for processes
    that are about to end. A process that has ended but was not reaped counts as leaked.
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
