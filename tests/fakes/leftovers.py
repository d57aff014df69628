"""What a test has left running: processes that descend from this one, or that live in the test's folders.

Cheap enough for every test: only processes that were not there before are looked into.
"""

import os
import time

from walrusd.host.killing import wait_gone
from walrusd.host.procfs import Seen, descendants, environment_of, look

PATIENCE_S = 10.0
"""For what was killed and has not ended yet."""


def everybody() -> frozenset[int]:
    return frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())


def leftovers(before: frozenset[int], folder: str, patience_s: float = PATIENCE_S) -> list[Seen]:
    """Who is there that was not there before, and is ours; `folder` stands in the environment of those that are.

    Waits for those that are about to end. One that has ended and was not reaped is left, too.
    """
    deadline = time.monotonic() + patience_s
    while (found := _found(before, folder)) and time.monotonic() < deadline:
        wait_gone(found, 0.1)
        time.sleep(0.001)
    return found


def _found(before: frozenset[int], folder: str) -> list[Seen]:
    found = {seen.pid: seen for seen in descendants(os.getpid()) if seen.pid not in before}
    for pid in everybody() - before - found.keys():
        if any(folder.encode() in entry for entry in environment_of(pid)) and (seen := look(pid)) is not None:
            found[pid] = seen
    return list(found.values())
