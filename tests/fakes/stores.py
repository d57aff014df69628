"""The store on a file and in memory, behind one interface: disks on which a test opens a log several times.

A daemon does the same over restarts.

The fixture `disk` runs a test on both: import it, or create one of the disks if a test is about that one.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import pytest
import trio
from msgspec import Struct

from tests.fakes.memory_log import MemoryLog
from walrusd.store.contract import Log, Write
from walrusd.store.sqlite import SqliteLog


class LogDisk(Protocol):
    async def open(self) -> Log:
        """Opens the log in the state that the previous one left.

        Close the previous log first; a memory log that was not closed behaves as if its daemon had been killed.
        """


class SqliteDisk(Struct):
    folder: Path
    durability: Literal["full", "normal"] = "normal"
    chain: bool = False

    @property
    def path(self) -> str:
        return str(self.folder / "walrus.db")

    async def open(self) -> SqliteLog:
        return await SqliteLog.open(self.path, durability=self.durability, chain=self.chain)


class MemoryDisk:
    def __init__(self) -> None:
        self.log = MemoryLog()

    async def open(self) -> MemoryLog:
        self.log = MemoryLog(self.log)
        return self.log


DISKS: dict[str, Callable[[Path], LogDisk]] = {"sqlite": SqliteDisk, "memory": lambda _: MemoryDisk()}


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> LogDisk:
    name: str = request.param
    return DISKS[name](tmp_path)


def _unexpected_callback(_: object) -> None:
    raise AssertionError("a write was submitted without `submit_all` or `commit`, so that no test waits for it")


write = partial(Write, committed=_unexpected_callback, failed=_unexpected_callback)
"""Creates a write without callbacks; `submit_all` and `commit` set them."""


async def submit_all(log: Log, *writes: Write) -> list[int | Exception]:
    """Submits all writes at once; returns for each the offset of its first body, or the error."""
    outcomes: dict[int, int | Exception] = {}
    all_done = trio.Event()

    def set_outcome(index: int, outcome: int | Exception) -> None:
        assert index == len(outcomes), "outcomes come in the order of submission"
        outcomes[index] = outcome
        if len(outcomes) == len(writes):
            all_done.set()

    for index, one in enumerate(writes):
        one.committed = one.failed = partial(set_outcome, index)
        log.submit(one)
    assert not outcomes, "submit must not call back before it returns"
    await all_done.wait()
    return list(outcomes.values())


async def commit(log: Log, *writes: Write) -> list[int]:
    """Submits all writes at once; returns the offset of each one's first body. Raises the first error."""
    offsets: list[int] = []
    for outcome in await submit_all(log, *writes):
        if isinstance(outcome, Exception):
            raise outcome
        offsets.append(outcome)
    return offsets
