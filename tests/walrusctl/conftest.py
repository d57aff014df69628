"""A daemon that plays a script, and a walrusctl that finds it in its home."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeDaemon
from tests.fakes.desk import Desk
from tests.fakes.systemctl import FakeSystemd
from tests.fakes.terminal import SCRIPT, Terminal


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT) as daemon:
        yield daemon


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def systemd(tmp_path: Path, desk: Desk) -> FakeSystemd:
    systemd = FakeSystemd(tmp_path / "systemd")
    desk.environ["PATH"] = f"{systemd.path}:/usr/bin:/bin"
    return systemd
