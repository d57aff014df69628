"""walrusctl service install and uninstall: with a systemctl that only keeps what it was asked, and without any."""

import contextlib
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.desk import Desk
from tests.fakes.systemctl import RUNNING, FakeSystemd

BOTH = "walrusd.socket walrusd.service"
ENABLE_NOW = f"systemctl --user enable --now {BOTH}"
LATER = ["systemctl --user daemon-reload", ENABLE_NOW, "loginctl enable-linger"]
KEYED = '[providers.mine]\nkind = "openai"\napi_key = "${SECRET_KEY}"\nmodels = ["m"]\n'


@contextlib.contextmanager
def held(home: Path, pid: int) -> Iterator[None]:
    """The lock as a walrusd of that pid holds it."""
    home.mkdir(mode=0o700, exist_ok=True)
    with open(home / "walrusd.lock", "w") as lock:
        lock.write(f"{pid}\n{home}/walrus.sock\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_install_makes_the_home_writes_the_units_and_starts_them(desk: Desk, systemd: FakeSystemd) -> None:
    done = desk.types("service", "install")
    assert done.exit_code == 0
    assert {"walrus.toml", "agents", "workspace"} <= set(os.listdir(desk.home))
    assert f"made {desk.home}/workspace\n" in done.stdout
    assert f"wrote {desk.home}/walrus.toml\n" in done.stdout
    assert f"wrote {desk.units}/walrusd.service\nwalrusd runs as a service, pid 4711\n" in done.stdout
    assert "to do" not in done.output
    assert sorted(os.listdir(desk.units)) == ["walrusd.service", "walrusd.socket"]
    walrusd = Path(sys.executable).parent / "walrusd"
    assert f'\nExecStart="{walrusd}" "--home" "{desk.home}"\n' in desk.unit("walrusd.service")
    assert f"\nEnvironmentFile=-{desk.home}/environment\n" in desk.unit("walrusd.service")
    assert f"\nListenStream={desk.home}/walrus.sock\n" in desk.unit("walrusd.socket")
    assert systemd.asked == ["daemon-reload", f"enable {BOTH}", f"reset-failed {BOTH}", f"start {BOTH}"]


def test_a_second_install_changes_nothing(desk: Desk, systemd: FakeSystemd) -> None:
    desk.types("service", "install")
    before = (desk.units / "walrusd.service").stat().st_mtime_ns
    assert desk.report("install") == {
        "home": str(desk.home),
        "socket": f"{desk.home}/walrus.sock",
        "made": [],
        "written": [],
        "pid": 4711,
        "lingers": True,
        "todo": [],
    }
    assert (desk.units / "walrusd.service").stat().st_mtime_ns == before
    assert systemd.asked.count(f"start {BOTH}") == 1


def test_the_units_follow_the_configuration_and_a_running_service_is_left_to_the_user(
    desk: Desk, systemd: FakeSystemd
) -> None:
    desk.types("service", "install")
    assert "\nTimeoutStopSec=70\n" in desk.unit("walrusd.service")
    desk.with_config(f'[daemon]\nsocket = "{desk.home}/other.sock"\nshutdown_grace_s = 30.5\n')
    assert desk.report("status")["up_to_date"] is False
    done = desk.report("install")
    assert (done["socket"], done["todo"]) == (f"{desk.home}/other.sock", [f"systemctl --user restart {BOTH}"])
    assert "\nTimeoutStopSec=91\n" in desk.unit("walrusd.service")
    assert f"\nListenStream={desk.home}/other.sock\n" in desk.unit("walrusd.socket")
    assert "--socket" not in desk.unit("walrusd.service")


def test_a_socket_and_a_home_that_are_named_reach_the_units_whatever_stands_in_them(
    desk: Desk, systemd: FakeSystemd
) -> None:
    home, socket = f"{desk.environ['HOME']}/50% $HOME [x]", f"{desk.environ['HOME']}/w.sock"
    assert desk.types("service", "install", "--home", home, "--socket", socket).exit_code == 0
    told = f'"--home" "{desk.environ["HOME"]}/50%% $$HOME [x]" "--socket" "{socket}"\n'
    assert told in desk.unit("walrusd.service")
    assert f"\nEnvironmentFile=-{desk.environ['HOME']}/50%% $HOME [[]x]/environment\n" in desk.unit("walrusd.service")
    assert f"\nListenStream={socket}\n" in desk.unit("walrusd.socket")


def test_a_path_that_no_unit_can_carry_is_refused(desk: Desk, systemd: FakeSystemd) -> None:
    done = desk.types("service", "install", "--home", f"{desk.environ['HOME']}/two\nlines")
    assert done.exit_code == 2
    assert "cannot stand in a unit" in done.stderr
    assert not desk.units.exists()


def test_a_configuration_that_is_refused_is_not_installed(desk: Desk, systemd: FakeSystemd) -> None:
    desk.with_config("[daemn]\n")
    done = desk.types("service", "install")
    assert done.exit_code == 2
    assert f"{desk.home}/walrus.toml:1: daemn: unknown key" in done.stderr
    assert not desk.units.exists()
    assert systemd.asked == []
    assert desk.report("install")["ok"] is False
    assert desk.types("service", "install", "--force").exit_code == 0


def test_a_key_that_only_the_shell_has_is_told_with_where_to_write_it(desk: Desk, systemd: FakeSystemd) -> None:
    desk.with_config(KEYED)
    desk.environ["SECRET_KEY"] = "sk-never-shown"
    done = desk.types("service", "install")
    assert done.exit_code == 2
    assert "the environment variable SECRET_KEY is not set" in done.stderr
    assert f"write NAME=value into {desk.home}/environment" in done.stderr
    assert "sk-never-shown" not in done.output


@pytest.mark.parametrize("line", ["SECRET_KEY=sk-1", ' SECRET_KEY = "sk 1"', "# keys\n\nSECRET_KEY='sk-1'\nOTHER=x"])
def test_a_key_in_the_environment_file_is_seen(desk: Desk, systemd: FakeSystemd, line: str) -> None:
    desk.with_config(KEYED)
    (desk.home / "environment").write_text(line)
    (desk.home / "environment").chmod(0o600)
    done = desk.types("service", "install")
    assert (done.exit_code, done.stderr) == (0, "")
    (desk.home / "environment").chmod(0o644)
    assert "others may read" in desk.types("service", "install").stderr


def test_a_key_that_systemd_itself_gives_is_seen(desk: Desk, systemd: FakeSystemd) -> None:
    desk.with_config(KEYED)
    systemd.gives("HOME=/home/ann", "SECRET_KEY=sk-1")
    assert desk.types("service", "install").exit_code == 0


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_unit_that_was_edited_is_not_touched_without_force(desk: Desk, systemd: FakeSystemd, command: str) -> None:
    desk.types("service", "install")
    edited = desk.unit("walrusd.service").replace("RestartSec=5", "RestartSec=50")
    (desk.units / "walrusd.service").write_text(edited)
    asked = systemd.asked
    done = desk.types("service", command)
    assert done.exit_code == 1
    assert f"{desk.units}/walrusd.service was edited by hand" in done.stderr
    assert "systemctl --user edit walrusd.service" in done.stderr
    assert (desk.unit("walrusd.service"), systemd.asked) == (edited, asked)
    assert desk.types("service", command, "--force").exit_code == 0
    assert not (desk.units / "walrusd.service").exists() or "RestartSec=5\n" in desk.unit("walrusd.service")


@pytest.mark.parametrize("kind", ["somebody's", "masked"])
def test_a_unit_of_somebody_elses_is_neither_replaced_nor_removed(desk: Desk, systemd: FakeSystemd, kind: str) -> None:
    desk.units.mkdir(parents=True)
    theirs = desk.units / "walrusd.service"
    theirs.write_text("[Service]\nExecStart=/bin/true\n") if kind == "somebody's" else theirs.symlink_to("/dev/null")
    before = theirs.lstat()
    done = desk.types("service", "install")
    assert done.exit_code == 1
    assert f"{theirs} was not written by walrusctl" in done.stderr
    assert f"kept {theirs}" in desk.types("service", "uninstall", "--force").stdout
    assert os.path.samestat(before, theirs.lstat())


def test_without_a_systemctl_the_units_are_written_and_the_rest_is_told(desk: Desk) -> None:
    done = desk.types("service", "install")
    assert done.exit_code == 0
    assert done.stderr == (
        "walrusctl: there is no systemctl here: nothing is started\n"
        "walrusctl: it starts when you log in and ends when you log out, unless you let it linger\n"
    )
    assert [line.removeprefix("to do: ") for line in done.stdout.splitlines() if "to do" in line] == LATER
    assert (desk.units / "walrusd.service").exists()
    assert desk.report("install") == {
        "home": str(desk.home),
        "socket": f"{desk.home}/walrus.sock",
        "made": [],
        "written": [],
        "pid": None,
        "lingers": None,
        "todo": LATER,
    }


def test_without_a_manager_of_the_user_the_same_is_told_with_the_reason(desk: Desk, systemd: FakeSystemd) -> None:
    systemd.refuses("show-environment", "Failed to connect to bus: No medium found\n")
    systemd.linger("Linger=no")
    done = desk.types("service", "install")
    assert done.exit_code == 0
    assert "no systemd runs for this user (Failed to connect to bus: No medium found)" in done.stderr
    assert desk.report("install")["todo"] == LATER
    assert systemd.asked == []


def test_a_service_without_linger_is_told(desk: Desk, systemd: FakeSystemd) -> None:
    systemd.linger("Linger=no")
    done = desk.types("service", "install")
    assert "ends when you log out" in done.stderr
    assert done.stdout.endswith("to do: loginctl enable-linger\n")
    assert desk.report("status")["lingers"] is False


def test_a_walrusd_that_runs_without_systemd_is_noticed_and_left_alone(desk: Desk, systemd: FakeSystemd) -> None:
    with held(desk.home, 12345):
        done = desk.types("service", "install")
        assert done.exit_code == 0
        assert f"walrusd runs on {desk.home} already (pid 12345), and not as this service" in done.stderr
        assert desk.report("install")["todo"] == ["kill 12345", ENABLE_NOW]
        assert not [line for line in systemd.asked if line.startswith("start")]
        assert "(pid 12345), and not as this service" in desk.types("service", "status").stderr
    with held(desk.home, 4711):
        systemd.service(RUNNING)
        assert desk.types("service", "status").stderr == ""


def test_a_start_that_fails_is_told_in_systemds_words(desk: Desk, systemd: FakeSystemd) -> None:
    systemd.refuses("start", "Job for walrusd.service failed.\n")
    done = desk.types("service", "install")
    assert done.exit_code == 1
    assert f"`systemctl --user start {BOTH}` failed: Job for walrusd.service failed." in done.stderr
    assert "walrusctl logs" in done.stderr
    assert "failed" in str(desk.report("install")["error"])


def test_uninstall_stops_it_and_leaves_the_home_and_what_was_put_beside_the_units(
    desk: Desk, systemd: FakeSystemd
) -> None:
    desk.types("service", "install")
    beside, wants = desk.units / "walrusd.service.d", desk.units / "default.target.wants"
    beside.mkdir()
    wants.mkdir()
    (wants / "walrusd.service").symlink_to(desk.units / "walrusd.service")
    done = desk.types("service", "uninstall")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"removed {desk.units}/walrusd.socket",
        f"removed {desk.units}/walrusd.service",
        f"kept {beside}",
        f"kept {desk.home}",
    ]
    assert systemd.asked[-2:] == [f"disable --now {BOTH}", "daemon-reload"]
    assert sorted(os.listdir(desk.units)) == ["default.target.wants", "walrusd.service.d"]
    assert os.listdir(wants) == []
    assert (desk.home / "walrus.toml").exists()
    assert desk.report("uninstall") == {"removed": [], "kept": [str(beside), str(desk.home)], "pid": None}


def test_uninstall_works_without_systemd_and_tells_of_what_still_runs(desk: Desk) -> None:
    desk.types("service", "install")
    with held(desk.home, 12345):
        done = desk.types("service", "uninstall")
    assert done.exit_code == 0
    assert "walrusd still runs" in done.stderr
    assert os.listdir(desk.units) == []


AS_NOBODY = """
import os
import walrus_config.load, walrusctl.commands.service
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""
"""All that is needed is imported before: it may not be theirs to read."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_unit_that_cannot_be_removed_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        desk = Desk(Path(folder))
        desk.types("service", "install")
        child = desk.child("service", "uninstall", before=AS_NOBODY)
        _, stderr = child.communicate(timeout=30)
        assert (child.returncode, b"Traceback" in stderr) == (1, False)
        assert f"{desk.units}/walrusd.socket: Permission denied" in stderr.decode()
        assert sorted(os.listdir(desk.units)) == ["walrusd.service", "walrusd.socket"]
