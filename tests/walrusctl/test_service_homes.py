"""A user has one service: what walrusctl does where its units serve another home than the one it is asked for."""

import os
import socket

import pytest

from tests.fakes.desk import Desk
from tests.fakes.systemctl import FakeSystemd


@pytest.fixture
def other(desk: Desk, systemd: FakeSystemd) -> str:
    """A home beside that of the service, which is installed."""
    assert desk.types("service", "install").exit_code == 0
    return f"{desk.environ['HOME']}/b c"


@pytest.mark.parametrize(
    ("command", "forced"), [("install", "takes them over for this home"), ("uninstall", "removes them all the same")]
)
def test_the_service_of_another_home_is_left_alone_without_force(
    desk: Desk, systemd: FakeSystemd, other: str, command: str, forced: str
) -> None:
    before, asked = desk.unit("walrusd.service"), systemd.asked
    done = desk.types("service", command, "--home", other)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"walrusctl: these units are those of {desk.home}\n  hint: ")
    assert done.stderr.endswith(f"; --force {forced}\n")
    assert (desk.unit("walrusd.service"), systemd.asked) == (before, asked)
    assert not os.path.exists(other)
    assert "those of" in str(desk.report(command, "--home", other)["error"])


def test_force_takes_the_service_over(desk: Desk, other: str) -> None:
    assert desk.types("service", "install", "--home", other, "--force").exit_code == 0
    assert f'"--home" "{other}"' in desk.unit("walrusd.service")
    assert f"ListenStream={other}/walrus.sock" in desk.unit("walrusd.socket")


def test_force_removes_the_service_of_another_home(desk: Desk, other: str) -> None:
    assert desk.types("service", "uninstall", "--home", other, "--force").exit_code == 0
    assert os.listdir(desk.units) == []


def test_units_that_were_edited_are_another_homes_all_the_same(desk: Desk, other: str) -> None:
    (desk.units / "walrusd.service").write_text(desk.unit("walrusd.service") + "# mine\n")
    done = desk.types("service", "install", "--home", other)
    assert done.stderr.startswith(f"walrusctl: these units are those of {desk.home}\n")


def test_status_says_whose_the_units_are_and_advises_no_install(desk: Desk, other: str) -> None:
    done = desk.types("service", "status", "--home", other)
    assert done.exit_code == 3
    assert done.stdout.splitlines()[:2] == [
        f"walrusd.socket   of another home, {desk.units}/walrusd.socket",
        f"walrusd.service  of another home, {desk.units}/walrusd.service",
    ]
    assert done.stderr == (
        f"walrusctl: these units are those of {desk.home}\n"
        f"  hint: `walrusctl --home {desk.home} service status` tells how it is\n"
    )
    report = desk.report("status", "--home", other)
    assert (report["installed"], report["home"], report["pid"]) == (False, str(desk.home), None)
    assert report["units"] == dict.fromkeys(("walrusd.socket", "walrusd.service"), "of another home")


def test_a_home_by_another_name_is_the_same_home(desk: Desk, other: str) -> None:
    os.symlink(desk.home, other)
    done = desk.types("service", "status", "--home", other)
    assert "of another home" not in done.stdout
    assert desk.types("service", "uninstall", "--home", other).exit_code == 0


@pytest.mark.parametrize("config", [".config", "units"])
def test_a_relative_config_folder_is_ignored_as_xdg_has_it(desk: Desk, systemd: FakeSystemd, config: str) -> None:
    desk.environ["XDG_CONFIG_HOME"] = config
    assert desk.types("service", "install").exit_code == 0
    assert sorted(os.listdir(desk.units)) == ["walrusd.service", "walrusd.socket"]


def test_a_config_folder_that_is_none_is_told(desk: Desk, systemd: FakeSystemd) -> None:
    desk.environ["XDG_CONFIG_HOME"] = "/dev/null"
    done = desk.types("service", "install")
    assert done.exit_code == 1
    assert "does XDG_CONFIG_HOME name one?" in done.stderr
    assert "make room" not in done.stderr


SERVICE_HINT = (
    "it is a service: `walrusctl service status` tells how it is, "
    "`systemctl --user start walrusd.socket walrusd.service` starts it"
)


def test_who_cannot_reach_a_service_is_sent_to_systemd(desk: Desk, other: str) -> None:
    done = desk.types("ping")
    assert done.exit_code == 4
    assert done.stderr.endswith(f"  hint: {SERVICE_HINT}\n")
    elsewhere = desk.types("ping", "--home", other)
    assert "`make run`" in elsewhere.stderr
    assert "`make run`" in desk.types("ping", "--socket", f"{desk.home}/mine.sock").stderr


def test_who_was_hung_up_on_by_a_service_is_not_sent_in_a_circle(desk: Desk, other: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(desk.home / "walrus.sock"))
        listener.listen()
        with desk.child("ping") as child:
            listener.accept()[0].close()
            _, stderr = child.communicate(timeout=20)
    assert child.returncode == 4
    assert stderr.decode().endswith(f"  hint: what it had acknowledged is kept; {SERVICE_HINT}\n")
