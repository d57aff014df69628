"""A daemon that plays a script, and a walrusctl that finds it in its home."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeDaemon
from tests.fakes.service_account import ServiceAccount
from tests.fakes.systemctl import FakeSystemd
from tests.fakes.walrusctl_runner import SCRIPT, WalrusctlRunner


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT) as daemon:
        yield daemon


@pytest.fixture
def terminal(tmp_path: Path) -> WalrusctlRunner:
    return WalrusctlRunner(tmp_path)


@pytest.fixture
def service_account(tmp_path: Path) -> ServiceAccount:
    return ServiceAccount(tmp_path)


@pytest.fixture
def systemd(tmp_path: Path, service_account: ServiceAccount) -> FakeSystemd:
    systemd = FakeSystemd(tmp_path / "systemd")
    service_account.environ["PATH"] = f"{systemd.path}:/usr/bin:/bin"
    return systemd
