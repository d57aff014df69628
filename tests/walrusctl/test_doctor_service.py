"""walrusctl doctor on the service: installed or not, up to date, enabled, failed, and whether it outlives a login."""

import json
from pathlib import Path

import pytest

from tests.fakes.home import Home
from tests.fakes.systemctl import RUNNING, FakeSystemd
from tests.fakes.terminal import Terminal


class Account(Terminal):
    """Somebody with a home, units of their own and a systemd."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Home(folder / "home").path)
        self.systemd = FakeSystemd(folder / "systemd")
        self.units = folder / "config" / "systemd" / "user"
        self.environ |= {"HOME": str(folder), "PATH": f"{self.systemd.path}:/usr/bin:/bin"}
        self.environ |= {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_RUNTIME_DIR": "/run/user/4711"}

    def told(self) -> list[tuple[str, str, str]]:
        checks = json.loads(self.types("doctor", "--json").stdout)["checks"]
        return [(check["status"], check["message"], check["hint"]) for check in checks if check["name"] == "service"]


@pytest.fixture
def account(tmp_path: Path) -> Account:
    account = Account(tmp_path)
    account.systemd.service(RUNNING)
    return account


@pytest.fixture
def installed(account: Account) -> Account:
    assert account.types("service", "install").exit_code == 0
    return account


FINE = [("fine", "installed, enabled, and runs", "")]


def test_no_service_is_no_fault(account: Account) -> None:
    [(status, message, hint)] = account.told()
    assert (status, message) == ("fine", "not installed")
    assert "walrusctl service install" in hint


def test_a_service_that_is_well_is_fine(installed: Account) -> None:
    assert installed.told() == FINE


def test_units_that_no_longer_fit_or_were_edited_or_are_missing_are_told(installed: Account) -> None:
    service = installed.units / "walrusd.service"
    (installed.home / "walrus.toml").write_text("[daemon]\nshutdown_grace_s = 77\n")
    assert installed.told() == [
        (
            "warning",
            f"{service} is not as this walrusd, home and configuration need it",
            "`walrusctl service install` writes it anew",
        )
    ]
    service.write_text(service.read_text() + "# mine\n")
    assert installed.told()[0][1] == f"{service} was edited by hand"
    service.write_text("[Service]\n")
    assert installed.told()[0][1] == f"{service} was not written by walrusctl"
    service.unlink()
    assert installed.told()[0][1] == f"{service} is missing"


def test_the_service_of_another_home_is_no_fault_and_nobody_is_told_to_take_it(account: Account) -> None:
    other = Home(account.home.parent / "other").path
    assert account.types("service", "install", "--home", str(other)).exit_code == 0
    [(status, message, hint)] = account.told()
    assert (status, message) == ("fine", f"not installed: the units are those of another home, {other}")
    assert "install" not in hint


def test_a_service_that_has_failed_is_broken(installed: Account) -> None:
    failed = RUNNING.replace("ActiveState=active", "ActiveState=failed").replace("Result=success", "Result=watchdog")
    installed.systemd.service(failed)
    [(status, message, hint)] = installed.told()
    assert (status, message) == ("broken", "it has failed (watchdog)")
    assert "walrusctl logs" in hint


def test_a_service_that_does_not_run_or_will_not_start_or_ends_with_the_login_is_told(installed: Account) -> None:
    installed.systemd.service(RUNNING.replace("=active", "=inactive").replace("=enabled", "=disabled"))
    installed.systemd.linger("Linger=no")
    assert installed.told() == [
        (
            "warning",
            "installed, but it will not start by itself",
            "systemctl --user enable walrusd.socket walrusd.service",
        ),
        ("warning", "it does not run", "systemctl --user start walrusd.service"),
        (
            "warning",
            "it starts when you log in, and ends when you log out",
            "`loginctl enable-linger` lets it run without you",
        ),
    ]


def test_without_a_systemd_to_ask_that_is_told(installed: Account) -> None:
    installed.systemd.refuses("show-environment", "Failed to connect to bus")
    [(status, message, _)] = installed.told()
    assert status == "warning"
    assert message == "installed, but no systemd runs for this user (Failed to connect to bus)"
