"""Tests of walrusctl service if the installed units are for another home; a user has one service."""

import os
import socket

import pytest

from tests.fakes.service_account import ServiceAccount
from tests.fakes.systemctl import FakeSystemd


@pytest.fixture
def other_home(service_account: ServiceAccount, systemd: FakeSystemd) -> str:
    """A second home; the service is installed for the first one."""
    assert service_account.run("service", "install").exit_code == 0
    return f"{service_account.environ['HOME']}/b c"


@pytest.mark.parametrize(
    ("command", "force_effect"),
    [("install", "replaces them by units for this home"), ("uninstall", "removes them anyway")],
)
def test_the_service_of_another_home_is_not_changed_without_force(
    service_account: ServiceAccount, systemd: FakeSystemd, other_home: str, command: str, force_effect: str
) -> None:
    unit, commands = service_account.read_unit("walrusd.service"), systemd.commands
    done = service_account.run("service", command, "--home", other_home)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"walrusctl: the installed service is for another home, {service_account.home}\n  hint: "
    )
    assert done.stderr.endswith(f"; --force {force_effect}\n")
    assert (service_account.read_unit("walrusd.service"), systemd.commands) == (unit, commands)
    assert not os.path.exists(other_home)
    assert "another home" in str(service_account.report(command, "--home", other_home)["error"])


def test_force_replaces_the_service_of_another_home(service_account: ServiceAccount, other_home: str) -> None:
    assert service_account.run("service", "install", "--home", other_home, "--force").exit_code == 0
    assert f'"--home" "{other_home}"' in service_account.read_unit("walrusd.service")
    assert f"ListenStream={other_home}/walrus.sock" in service_account.read_unit("walrusd.socket")


def test_force_removes_the_service_of_another_home(service_account: ServiceAccount, other_home: str) -> None:
    assert service_account.run("service", "uninstall", "--home", other_home, "--force").exit_code == 0
    assert os.listdir(service_account.units_folder) == []


def test_edited_units_of_another_home_still_belong_to_that_home(
    service_account: ServiceAccount, other_home: str
) -> None:
    (service_account.units_folder / "walrusd.service").write_text(
        service_account.read_unit("walrusd.service") + "# mine\n"
    )
    done = service_account.run("service", "install", "--home", other_home)
    assert done.stderr.startswith(f"walrusctl: the installed service is for another home, {service_account.home}\n")


def test_status_reports_the_other_home_and_does_not_suggest_an_install(
    service_account: ServiceAccount, other_home: str
) -> None:
    done = service_account.run("service", "status", "--home", other_home)
    assert done.exit_code == 3
    assert done.stdout.splitlines()[:2] == [
        f"walrusd.socket   of another home, {service_account.units_folder}/walrusd.socket",
        f"walrusd.service  of another home, {service_account.units_folder}/walrusd.service",
    ]
    assert done.stderr == (
        f"walrusctl: the installed service is for another home, {service_account.home}\n"
        f"  hint: `walrusctl --home {service_account.home} service status` shows its state\n"
    )
    report = service_account.report("status", "--home", other_home)
    assert (report["installed"], report["home"], report["pid"]) == (False, str(service_account.home), None)
    assert report["units"] == dict.fromkeys(("walrusd.socket", "walrusd.service"), "of another home")


def test_a_link_to_a_home_is_the_same_home(service_account: ServiceAccount, other_home: str) -> None:
    os.symlink(service_account.home, other_home)
    done = service_account.run("service", "status", "--home", other_home)
    assert "of another home" not in done.stdout
    assert service_account.run("service", "uninstall", "--home", other_home).exit_code == 0


@pytest.mark.parametrize("config", [".config", "units"])
def test_a_relative_config_folder_is_ignored_as_in_the_xdg_specification(
    service_account: ServiceAccount, systemd: FakeSystemd, config: str
) -> None:
    service_account.environ["XDG_CONFIG_HOME"] = config
    assert service_account.run("service", "install").exit_code == 0
    assert sorted(os.listdir(service_account.units_folder)) == ["walrusd.service", "walrusd.socket"]


def test_a_config_folder_that_is_not_a_folder_is_reported(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    service_account.environ["XDG_CONFIG_HOME"] = "/dev/null"
    done = service_account.run("service", "install")
    assert done.exit_code == 1
    assert "check XDG_CONFIG_HOME" in done.stderr
    assert "free disk space" not in done.stderr


SERVICE_HINT = (
    "it is a service: `walrusctl service status` shows its state, "
    "`systemctl --user start walrusd.socket walrusd.service` starts it"
)


def test_if_a_service_is_unreachable_the_hint_names_systemctl(service_account: ServiceAccount, other_home: str) -> None:
    done = service_account.run("ping")
    assert done.exit_code == 4
    assert done.stderr.endswith(f"  hint: {SERVICE_HINT}\n")
    other = service_account.run("ping", "--home", other_home)
    assert "`walrusd --init`" in other.stderr
    assert "`walrusd --init`" in service_account.run("ping", "--socket", f"{service_account.home}/mine.sock").stderr


def test_if_a_service_closes_the_connection_the_hint_names_systemctl(
    service_account: ServiceAccount, other_home: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(service_account.home / "walrus.sock"))
        listener.listen()
        with service_account.start_process("ping") as child:
            listener.accept()[0].close()
            _, stderr = child.communicate(timeout=20)
    assert child.returncode == 4
    assert stderr.decode().endswith(f"  hint: acknowledged messages are not lost; {SERVICE_HINT}\n")
