"""Fixture of the crash tests: no child process outlives its test."""

import os
from collections.abc import Iterator

import pytest

from tests.fakes.home import descendants


@pytest.fixture(autouse=True)
def no_leaked_children() -> Iterator[None]:
    before = set(descendants(os.getpid()))
    yield
    leaked = set(descendants(os.getpid())) - before
    assert not leaked, f"still running: {leaked}"
