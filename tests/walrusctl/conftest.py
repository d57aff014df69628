"""A daemon that plays a script, and a walrusctl that finds it in its home."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeDaemon
from tests.fakes.terminal import SCRIPT, Terminal


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT) as daemon:
        yield daemon


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)
