"""Every test of a store gets its disk from here."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.stores import LogDisk, disk
from walrusd.store.contract import Log

__all__ = ["disk"]


@pytest.fixture
async def log(disk: LogDisk) -> AsyncIterator[Log]:
    log = await disk.open()
    yield log
    await log.aclose()
