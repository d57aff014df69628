"""Runs a command several times; prints the seconds, peak RSS in KiB and exit status of each run.

    python -S -I benchmarks/spawn.py TIMES COMMAND…

It is a small process of its own, because the kernel's peak RSS of a child includes that of the process it was forked
from.
"""

import os
import sys
import time


def main(times: int, command: list[str]) -> None:
    for _ in range(times):
        began = time.perf_counter()
        pid = os.posix_spawn(
            command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        )
        _, status, usage = os.wait4(pid, 0)
        print(time.perf_counter() - began, usage.ru_maxrss, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
