"""Tests of walrusctl doctor: the service is installed, up to date, enabled, running, and lingers."""

import json
from pathlib import Path

import pytest

from tests.fakes.home import Home
from tests.fakes.systemctl import RUNNING, FakeSystemd
from tests.fakes.walrusctl_runner import WalrusctlRunner


class AccountWithSystemd(WalrusctlRunner):
    """A user account with a home, a folder of units and a fake systemd."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Home(folder / "home").path)
        self.systemd = FakeSystemd(folder / "systemd")
        self.units = folder / "config" / "systemd" / "user"
        self.environ |= {"HOME": str(folder), "PATH": f"{self.systemd.path}:/usr/bin:/bin"}
        self.environ |= {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_RUNTIME_DIR": "/run/user/4711"}

    def service_findings(self) -> list[tuple[str, str, str]]:
        checks = json.loads(self.run("doctor", "--json").stdout)["checks"]
        return [(check["status"], check["message"], check["hint"]) for check in checks if check["name"] == "service"]


@pytest.fixture
def account(tmp_path: Path) -> AccountWithSystemd:
    account = AccountWithSystemd(tmp_path)
    account.systemd.set_service(RUNNING)
    return account


@pytest.fixture
def installed_account(account: AccountWithSystemd) -> AccountWithSystemd:
    assert account.run("service", "install").exit_code == 0
    return account


HEALTHY = [("ok", "installed, enabled and running", "")]


def test_a_missing_service_is_ok(account: AccountWithSystemd) -> None:
    [(status, message, hint)] = account.service_findings()
    assert (status, message) == ("ok", "not installed")
    assert "walrusctl service install" in hint


def test_a_running_service_is_ok(installed_account: AccountWithSystemd) -> None:
    assert installed_account.service_findings() == HEALTHY


def test_outdated_edited_and_missing_units_are_reported(
    installed_account: AccountWithSystemd,
) -> None:
    service = installed_account.units / "walrusd.service"
    (installed_account.home / "walrus.toml").write_text("[daemon]\nshutdown_grace_s = 77\n")
    assert installed_account.service_findings() == [
        (
            "warning",
            f"{service} does not match this walrusd, home and configuration",
            "`walrusctl service install` rewrites it",
        )
    ]
    service.write_text(service.read_text() + "# mine\n")
    assert installed_account.service_findings()[0][1] == f"{service} was edited by hand"
    service.write_text("[Service]\n")
    assert installed_account.service_findings()[0][1] == f"{service} was not written by walrusctl"
    service.unlink()
    assert installed_account.service_findings()[0][1] == f"{service} is missing"


def test_the_service_of_another_home_is_ok_and_no_install_is_suggested(account: AccountWithSystemd) -> None:
    other = Home(account.home.parent / "other").path
    assert account.run("service", "install", "--home", str(other)).exit_code == 0
    [(status, message, hint)] = account.service_findings()
    assert (status, message) == ("ok", f"not installed: the service is for another home, {other}")
    assert "install" not in hint


def test_a_failed_service_is_an_error(installed_account: AccountWithSystemd) -> None:
    failed = RUNNING.replace("ActiveState=active", "ActiveState=failed").replace("Result=success", "Result=watchdog")
    installed_account.systemd.set_service(failed)
    [(status, message, hint)] = installed_account.service_findings()
    assert (status, message) == ("error", "it has failed (watchdog)")
    assert "walrusctl logs" in hint


def test_a_service_that_is_stopped_disabled_or_without_linger_is_reported(
    installed_account: AccountWithSystemd,
) -> None:
    installed_account.systemd.set_service(RUNNING.replace("=active", "=inactive").replace("=enabled", "=disabled"))
    installed_account.systemd.set_linger("Linger=no")
    assert installed_account.service_findings() == [
        (
            "warning",
            "installed, but not enabled: it does not start at login",
            "systemctl --user enable walrusd.socket walrusd.service",
        ),
        ("warning", "it does not run", "systemctl --user start walrusd.service"),
        (
            "warning",
            "it starts when you log in and stops when you log out",
            "with `loginctl enable-linger` it runs without a login",
        ),
    ]


def test_a_missing_systemd_is_reported(installed_account: AccountWithSystemd) -> None:
    installed_account.systemd.set_failure("show-environment", "Failed to connect to bus")
    [(status, message, _)] = installed_account.service_findings()
    assert status == "warning"
    assert message == "installed, but no systemd runs for this user (Failed to connect to bus)"
