"""Stores that can be stopped at a step of a write.

Each write passes numbered steps, at which a test may kill, fail or cut power.
Killing between two steps of the disk itself is the task of fault_injecting_vfs.
"""

import os
import signal
from collections.abc import Callable
from typing import Literal

import trio

from tests.fakes.memory_log import MemoryLog
from walrusd.store.contract import Write
from walrusd.store.errors import StorageFailed
from walrusd.store.sqlite import SqliteLog

Step = Literal["before", "durable", "applied"]
"""A step of a write.

before: it is not submitted yet. durable: it is durable and no caller knows yet. applied: it was applied and published.
"""
OnStep = Callable[[int, Step, Write], StorageFailed | None]
"""A function that is called with the number of the write, from 1, and its step.

A failure that it returns is what the caller gets: at "before" instead of the write, at "durable" in spite of it.
"""


def never_stop(_number: int, _step: Step, _write: Write) -> StorageFailed | None:
    return None


def kill_at(number: int, step: Step) -> OnStep:
    """Kills this process when a write reaches a step."""

    def on_step(reached: int, reached_step: Step, _write: Write) -> None:
        if (reached, reached_step) == (number, step):
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


def fail_from(number: int, failure: StorageFailed) -> OnStep:
    """Fails a write and all later ones, as on a disk that has become full."""

    def on_step(reached: int, step: Step, _write: Write) -> StorageFailed | None:
        return failure if step == "before" and reached >= number else None

    return on_step


class _SteppedWrites:
    """Adds the steps to a store; it stands in front of the store's class."""

    on_step: OnStep = staticmethod(never_stop)
    write_count = 0

    def submit(self, write: Write) -> None:
        self.write_count += 1
        number, committed = self.write_count, write.committed

        def durable(offset: int) -> None:
            if failure := self.on_step(number, "durable", write):
                write.failed(failure)
                return
            committed(offset)
            self.on_step(number, "applied", write)

        if failure := self.on_step(number, "before", write):
            # As from a writer: never within the call that submits.
            trio.lowlevel.current_trio_token().run_sync_soon(write.failed, failure)
            return
        write.committed = durable
        super().submit(write)  # type: ignore[misc]  # of the store behind it


class SteppedMemoryLog(_SteppedWrites, MemoryLog):
    pass


class SteppedSqliteLog(_SteppedWrites, SqliteLog):
    pass
