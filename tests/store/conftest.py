"""Fixtures for the store tests: `disk` of each kind of store, and an open `log` on it."""

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
