"""Both stores behind one door: disks that a test opens, closes and opens again, as a daemon does over its restarts.

`disk` is a fixture that runs a test on both; import it, or make one store's disk where only that is meant.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import pytest
import trio
from msgspec import Struct

from walrusd.store.contract import Log, Write
from walrusd.store.memory import MemoryLog
from walrusd.store.memory_tables import MemoryTables
from walrusd.store.sqlite import SqliteLog


class LogDisk(Protocol):
    async def open(self) -> Log:
        """The log as the last one left it. Close that one first; a memory log that was not is as good as killed."""


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
        self._disk = MemoryTables()

    async def open(self) -> MemoryLog:
        return MemoryLog(self._disk)


DISKS: dict[str, Callable[[Path], LogDisk]] = {"sqlite": SqliteDisk, "memory": lambda _: MemoryDisk()}


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> LogDisk:
    name: str = request.param
    return DISKS[name](tmp_path)


def _unexpected_callback(_: object) -> None:
    raise AssertionError("submitted without `outcomes` or `commit`: nobody waits for this write")


write = partial(Write, committed=_unexpected_callback, failed=_unexpected_callback)
"""A write without its callbacks: `outcomes` and `commit` bring them."""


async def submit_all(log: Log, *writes: Write) -> list[int | Exception]:
    """Submit all at once. What became of each: the offset of its first body, or the failure."""
    settled: dict[int, int | Exception] = {}
    all_settled = trio.Event()

    def settle(place: int, outcome: int | Exception) -> None:
        assert place == len(settled), "outcomes come in the order of submission"
        settled[place] = outcome
        if len(settled) == len(writes):
            all_settled.set()

    for place, one in enumerate(writes):
        one.committed = one.failed = partial(settle, place)
        log.submit(one)
    assert not settled, "submit only takes; outcomes come later"
    await all_settled.wait()
    return list(settled.values())


async def commit(log: Log, *writes: Write) -> list[int]:
    """Submit all at once; the offset of each one's first body. Raises the first failure."""
    offsets: list[int] = []
    for outcome in await submit_all(log, *writes):
        if isinstance(outcome, Exception):
            raise outcome
        offsets.append(outcome)
    return offsets
