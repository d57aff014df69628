"""Deaths: lives in forks, and a process that kills itself before the n-th step on the disk, until it survives."""

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
"""For a life in a fork, which takes the twentieth part of a second."""


def run_in_fork(target: Callable[[], object]) -> int:
    """The exit status, or minus the signal that ended it.

    Forked for speed: the imports are paid once. Nothing may run in this process that a fork could break.
    """
    child = os.fork()
    if not child:
        signal.alarm(FORK_TIMEOUT_S)
        try:
            target()
        except Exception:  # noqa: BLE001 - told here, where it is; the stack above is another process's to unwind
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_every_step(target: Callable[[Path], Awaitable[None]], prepare: Callable[[Path], None]) -> None:
    """The program of a script: each n lives in a folder of its own, in that of the script's argument, and finds
    there what `prepare` has put. Prints the n that was survived.
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
    """Run such a script; the n that it survived."""
    child = await trio.run_process(
        [sys.executable, script, str(folder)],
        capture_stdout=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return int(child.stdout)
