"""A user has one service: what walrusctl does where its units serve another home than the one it is asked for."""

import os
import socket

import pytest

from tests.fakes.service_account import ServiceAccount
from tests.fakes.systemctl import FakeSystemd


@pytest.fixture
def other_home(service_account: ServiceAccount, systemd: FakeSystemd) -> str:
    """A home beside that of the service, which is installed."""
    assert service_account.run("service", "install").exit_code == 0
    return f"{service_account.environ['HOME']}/b c"


@pytest.mark.parametrize(
    ("command", "forced"), [("install", "takes them over for this home"), ("uninstall", "removes them all the same")]
)
def test_the_service_of_another_home_is_left_alone_without_force(
    service_account: ServiceAccount, systemd: FakeSystemd, other_home: str, command: str, forced: str
) -> None:
    before, asked = service_account.read_unit("walrusd.service"), systemd.commands
    done = service_account.run("service", command, "--home", other_home)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"walrusctl: these units are those of {service_account.home}\n  hint: ")
    assert done.stderr.endswith(f"; --force {forced}\n")
    assert (service_account.read_unit("walrusd.service"), systemd.commands) == (before, asked)
    assert not os.path.exists(other_home)
    assert "those of" in str(service_account.report(command, "--home", other_home)["error"])


def test_force_takes_the_service_over(service_account: ServiceAccount, other_home: str) -> None:
    assert service_account.run("service", "install", "--home", other_home, "--force").exit_code == 0
    assert f'"--home" "{other_home}"' in service_account.read_unit("walrusd.service")
    assert f"ListenStream={other_home}/walrus.sock" in service_account.read_unit("walrusd.socket")


def test_force_removes_the_service_of_another_home(service_account: ServiceAccount, other_home: str) -> None:
    assert service_account.run("service", "uninstall", "--home", other_home, "--force").exit_code == 0
    assert os.listdir(service_account.units_folder) == []


def test_units_that_were_edited_are_another_homes_all_the_same(
    service_account: ServiceAccount, other_home: str
) -> None:
    (service_account.units_folder / "walrusd.service").write_text(
        service_account.read_unit("walrusd.service") + "# mine\n"
    )
    done = service_account.run("service", "install", "--home", other_home)
    assert done.stderr.startswith(f"walrusctl: these units are those of {service_account.home}\n")


def test_status_says_whose_the_units_are_and_advises_no_install(
    service_account: ServiceAccount, other_home: str
) -> None:
    done = service_account.run("service", "status", "--home", other_home)
    assert done.exit_code == 3
    assert done.stdout.splitlines()[:2] == [
        f"walrusd.socket   of another home, {service_account.units_folder}/walrusd.socket",
        f"walrusd.service  of another home, {service_account.units_folder}/walrusd.service",
    ]
    assert done.stderr == (
        f"walrusctl: these units are those of {service_account.home}\n"
        f"  hint: `walrusctl --home {service_account.home} service status` tells how it is\n"
    )
    report = service_account.report("status", "--home", other_home)
    assert (report["installed"], report["home"], report["pid"]) == (False, str(service_account.home), None)
    assert report["units"] == dict.fromkeys(("walrusd.socket", "walrusd.service"), "of another home")


def test_a_home_by_another_name_is_the_same_home(service_account: ServiceAccount, other_home: str) -> None:
    os.symlink(service_account.home, other_home)
    done = service_account.run("service", "status", "--home", other_home)
    assert "of another home" not in done.stdout
    assert service_account.run("service", "uninstall", "--home", other_home).exit_code == 0


@pytest.mark.parametrize("config", [".config", "units"])
def test_a_relative_config_folder_is_ignored_as_xdg_has_it(
    service_account: ServiceAccount, systemd: FakeSystemd, config: str
) -> None:
    service_account.environ["XDG_CONFIG_HOME"] = config
    assert service_account.run("service", "install").exit_code == 0
    assert sorted(os.listdir(service_account.units_folder)) == ["walrusd.service", "walrusd.socket"]


def test_a_config_folder_that_is_none_is_reported(service_account: ServiceAccount, systemd: FakeSystemd) -> None:
    service_account.environ["XDG_CONFIG_HOME"] = "/dev/null"
    done = service_account.run("service", "install")
    assert done.exit_code == 1
    assert "does XDG_CONFIG_HOME name one?" in done.stderr
    assert "make room" not in done.stderr


SERVICE_HINT = (
    "it is a service: `walrusctl service status` tells how it is, "
    "`systemctl --user start walrusd.socket walrusd.service` starts it"
)


def test_if_a_service_is_unreachable_the_hint_names_systemctl(service_account: ServiceAccount, other_home: str) -> None:
    done = service_account.run("ping")
    assert done.exit_code == 4
    assert done.stderr.endswith(f"  hint: {SERVICE_HINT}\n")
    elsewhere = service_account.run("ping", "--home", other_home)
    assert "`make run`" in elsewhere.stderr
    assert "`make run`" in service_account.run("ping", "--socket", f"{service_account.home}/mine.sock").stderr


def test_if_a_service_hangs_up_the_hint_does_not_suggest_the_failed_command(
    service_account: ServiceAccount, other_home: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(service_account.home / "walrus.sock"))
        listener.listen()
        with service_account.start_process("ping") as child:
            listener.accept()[0].close()
            _, stderr = child.communicate(timeout=20)
    assert child.returncode == 4
    assert stderr.decode().endswith(f"  hint: what it had acknowledged is kept; {SERVICE_HINT}\n")
