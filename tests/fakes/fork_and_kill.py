"""Runs code in forks that kill themselves before their n-th disk step.

It tries n = 1, 2, … until a fork survives.
"""

import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path

import trio

from tests.fakes.fault_injecting_vfs import fault_injecting_vfs

FORK_TIMEOUT_S = 30
"""Seconds after which a forked run is ended by SIGALRM; a run normally takes 0.05 s."""


def run_in_fork(target: Callable[[], object]) -> int:
    """Runs `target` in a fork; returns the exit status, or minus the number of the signal that ended it.

    A fork is fast because the imports are done only once. This process must not run anything that a fork could break,
    such as other threads.
    """
    child = os.fork()
    if not child:
        signal.alarm(FORK_TIMEOUT_S)
        try:
            target()
        except Exception:  # noqa: BLE001 - printed here: the frames above belong to the parent process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_every_step(target: Callable[[Path], Awaitable[None]], prepare: Callable[[Path], None]) -> None:
    """Runs `target` for n = 1, 2, …, killed before its n-th disk step; prints the first n it survived.

    This is the main function of a script, whose argument is a folder. Each n gets a subfolder, filled by `prepare`.
    """
    for step in count(1):
        folder = Path(sys.argv[1]) / str(step)
        folder.mkdir()
        prepare(folder)
        status = run_in_fork(partial(_run_until_step, target, folder, step))
        if status != -signal.SIGKILL:
            sys.stdout.write(str(step))
            sys.exit(status)


def _run_until_step(target: Callable[[Path], Awaitable[None]], folder: Path, kill_before: int) -> None:
    with fault_injecting_vfs(_kill_before_step(kill_before)):
        trio.run(target, folder)


def _kill_before_step(step: int) -> Callable[[str, str], None]:
    steps = count(1)

    def before(_step: str, _name: str) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


async def run_until_survived(script: str, folder: Path) -> int:
    """Runs a script that calls `kill_at_every_step`; returns the n that it printed."""
    child = await trio.run_process(
        [sys.executable, script, str(folder)],
        capture_stdout=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return int(child.stdout)
