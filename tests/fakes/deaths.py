"""A process that kills itself before the n-th step on the disk, for every n until it survives."""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import trio

from tests.fakes.numbered_disk import numbered_disk


def die_at_every_step(life: Callable[[Path], Awaitable[None]], prepare: Callable[[Path], None]) -> None:
    """The program of a script: each n lives in a folder of its own, in that of the script's argument, and finds
    there what `prepare` has put. Prints the n that was survived.

    Forked for speed: the imports are paid once. Nothing runs in this process that a fork could break.
    """
    for step in count(1):
        folder = Path(sys.argv[1]) / str(step)
        folder.mkdir()
        prepare(folder)
        child = os.fork()
        if not child:
            with numbered_disk(_killer(step)):
                trio.run(life, folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.stdout.write(str(step))
            sys.exit(os.waitstatus_to_exitcode(status))


def _killer(step: int) -> Callable[[str, str], None]:
    steps = count(1)

    def before(_step: str, _name: str) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


async def lives_of(script: str, folder: Path) -> int:
    """Run such a script; the n that it survived."""
    child = await trio.run_process(
        [sys.executable, script, str(folder)],
        capture_stdout=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return int(child.stdout)
