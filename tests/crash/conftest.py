"""After each of these tests no process of ours is left."""

import os
from collections.abc import Iterator

import pytest

from tests.fakes.home import descendants


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    before = set(descendants(os.getpid()))
    yield
    left = set(descendants(os.getpid())) - before
    assert not left, f"still running: {left}"
