"""walrusctl service install and uninstall: with a systemctl that only keeps what it was asked, and without any."""

import contextlib
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.service_account import ServiceAccount
from tests.fakes.systemctl import RUNNING, FakeSystemd

BOTH = "walrusd.socket walrusd.service"
ENABLE_NOW = f"systemctl --user enable --now {BOTH}"
REMAINING_STEPS = ["systemctl --user daemon-reload", ENABLE_NOW, "loginctl enable-linger"]
TOML_WITH_KEY = '[providers.mine]\nkind = "openai"\napi_key = "${SECRET_KEY}"\nmodels = ["m"]\n'


@contextlib.contextmanager
def held_lock(home: Path, pid: int) -> Iterator[None]:
    """The lock as a walrusd of that pid holds it."""
    home.mkdir(mode=0o700, exist_ok=True)
    with open(home / "walrusd.lock", "w") as lock:
        lock.write(f"{pid}\n{home}/walrus.sock\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_install_makes_the_home_writes_the_units_and_starts_them(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    done = service_account.run("service", "install")
    assert done.exit_code == 0
    assert {"walrus.toml", "agents", "workspace"} <= set(os.listdir(service_account.home))
    assert f"made {service_account.home}/workspace\n" in done.stdout
    assert f"wrote {service_account.home}/walrus.toml\n" in done.stdout
    assert f"wrote {service_account.units_folder}/walrusd.service\nwalrusd runs as a service, pid 4711\n" in done.stdout
    assert "to do" not in done.output
    assert sorted(os.listdir(service_account.units_folder)) == ["walrusd.service", "walrusd.socket"]
    walrusd = Path(sys.executable).parent / "walrusd"
    assert f'\nExecStart="{walrusd}" "--home" "{service_account.home}"\n' in service_account.read_unit(
        "walrusd.service"
    )
    assert f"\nEnvironmentFile=-{service_account.home}/environment\n" in service_account.read_unit("walrusd.service")
    assert f"\nListenStream={service_account.home}/walrus.sock\n" in service_account.read_unit("walrusd.socket")
    assert systemd.commands == ["daemon-reload", f"enable {BOTH}", f"reset-failed {BOTH}", f"start {BOTH}"]


def test_a_second_install_changes_nothing(service_account: ServiceAccount, systemd: FakeSystemd) -> None:
    service_account.run("service", "install")
    before = (service_account.units_folder / "walrusd.service").stat().st_mtime_ns
    assert service_account.report("install") == {
        "home": str(service_account.home),
        "socket": f"{service_account.home}/walrus.sock",
        "made": [],
        "written": [],
        "pid": 4711,
        "lingers": True,
        "todo": [],
    }
    assert (service_account.units_folder / "walrusd.service").stat().st_mtime_ns == before
    assert systemd.commands.count(f"start {BOTH}") == 1


def test_the_units_follow_the_configuration_and_a_running_service_is_left_to_the_user(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    service_account.run("service", "install")
    assert "\nTimeoutStopSec=70\n" in service_account.read_unit("walrusd.service")
    service_account.write_config(f'[daemon]\nsocket = "{service_account.home}/other.sock"\nshutdown_grace_s = 30.5\n')
    assert service_account.report("status")["up_to_date"] is False
    done = service_account.report("install")
    assert (done["socket"], done["todo"]) == (
        f"{service_account.home}/other.sock",
        [f"systemctl --user restart {BOTH}"],
    )
    assert "\nTimeoutStopSec=91\n" in service_account.read_unit("walrusd.service")
    assert f"\nListenStream={service_account.home}/other.sock\n" in service_account.read_unit("walrusd.socket")
    assert "--socket" not in service_account.read_unit("walrusd.service")


def test_a_socket_and_a_home_that_are_named_reach_the_units_whatever_stands_in_them(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    home, socket = f"{service_account.environ['HOME']}/50% $HOME [x]", f"{service_account.environ['HOME']}/w.sock"
    assert service_account.run("service", "install", "--home", home, "--socket", socket).exit_code == 0
    told = f'"--home" "{service_account.environ["HOME"]}/50%% $$HOME [x]" "--socket" "{socket}"\n'
    assert told in service_account.read_unit("walrusd.service")
    assert (
        f"\nEnvironmentFile=-{service_account.environ['HOME']}/50%% $HOME [[]x]/environment\n"
        in service_account.read_unit("walrusd.service")
    )
    assert f"\nListenStream={socket}\n" in service_account.read_unit("walrusd.socket")


def test_a_path_that_no_unit_can_carry_is_refused(service_account: ServiceAccount, systemd: FakeSystemd) -> None:
    done = service_account.run("service", "install", "--home", f"{service_account.environ['HOME']}/two\nlines")
    assert done.exit_code == 2
    assert "cannot stand in a unit" in done.stderr
    assert not service_account.units_folder.exists()


def test_a_configuration_that_is_refused_is_not_installed(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    service_account.write_config("[daemn]\n")
    done = service_account.run("service", "install")
    assert done.exit_code == 2
    assert f"{service_account.home}/walrus.toml:1: daemn: unknown key" in done.stderr
    assert not service_account.units_folder.exists()
    assert systemd.commands == []
    assert service_account.report("install")["ok"] is False
    assert service_account.run("service", "install", "--force").exit_code == 0


def test_a_key_that_only_the_shell_has_is_reported_with_where_to_write_it(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    service_account.write_config(TOML_WITH_KEY)
    service_account.environ["SECRET_KEY"] = "sk-never-shown"
    done = service_account.run("service", "install")
    assert done.exit_code == 2
    assert "the environment variable SECRET_KEY is not set" in done.stderr
    assert f"write NAME=value into {service_account.home}/environment" in done.stderr
    assert "sk-never-shown" not in done.output


@pytest.mark.parametrize("line", ["SECRET_KEY=sk-1", ' SECRET_KEY = "sk 1"', "# keys\n\nSECRET_KEY='sk-1'\nOTHER=x"])
def test_a_key_in_the_environment_file_is_seen(
    service_account: ServiceAccount, systemd: FakeSystemd, line: str
) -> None:
    service_account.write_config(TOML_WITH_KEY)
    (service_account.home / "environment").write_text(line)
    (service_account.home / "environment").chmod(0o600)
    done = service_account.run("service", "install")
    assert (done.exit_code, done.stderr) == (0, "")
    (service_account.home / "environment").chmod(0o644)
    assert "others may read" in service_account.run("service", "install").stderr


def test_a_key_that_systemd_itself_gives_is_seen(service_account: ServiceAccount, systemd: FakeSystemd) -> None:
    service_account.write_config(TOML_WITH_KEY)
    systemd.set_environment("HOME=/home/ann", "SECRET_KEY=sk-1")
    assert service_account.run("service", "install").exit_code == 0


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_unit_that_was_edited_is_not_touched_without_force(
    service_account: ServiceAccount, systemd: FakeSystemd, command: str
) -> None:
    service_account.run("service", "install")
    edited = service_account.read_unit("walrusd.service").replace("RestartSec=5", "RestartSec=50")
    (service_account.units_folder / "walrusd.service").write_text(edited)
    asked = systemd.commands
    done = service_account.run("service", command)
    assert done.exit_code == 1
    assert f"{service_account.units_folder}/walrusd.service was edited by hand" in done.stderr
    assert "systemctl --user edit walrusd.service" in done.stderr
    assert (service_account.read_unit("walrusd.service"), systemd.commands) == (edited, asked)
    assert service_account.run("service", command, "--force").exit_code == 0
    assert not (
        service_account.units_folder / "walrusd.service"
    ).exists() or "RestartSec=5\n" in service_account.read_unit("walrusd.service")


@pytest.mark.parametrize("kind", ["somebody's", "masked"])
def test_a_unit_of_somebody_elses_is_neither_replaced_nor_removed(
    service_account: ServiceAccount, systemd: FakeSystemd, kind: str
) -> None:
    service_account.units_folder.mkdir(parents=True)
    theirs = service_account.units_folder / "walrusd.service"
    theirs.write_text("[Service]\nExecStart=/bin/true\n") if kind == "somebody's" else theirs.symlink_to("/dev/null")
    before = theirs.lstat()
    done = service_account.run("service", "install")
    assert done.exit_code == 1
    assert f"{theirs} was not written by walrusctl" in done.stderr
    assert f"kept {theirs}" in service_account.run("service", "uninstall", "--force").stdout
    assert os.path.samestat(before, theirs.lstat())


def test_without_a_systemctl_the_units_are_written_and_the_other_steps_printed(service_account: ServiceAccount) -> None:
    done = service_account.run("service", "install")
    assert done.exit_code == 0
    assert done.stderr == (
        "walrusctl: there is no systemctl here: nothing is started\n"
        "walrusctl: it starts when you log in and ends when you log out, unless you let it linger\n"
    )
    assert [line.removeprefix("to do: ") for line in done.stdout.splitlines() if "to do" in line] == REMAINING_STEPS
    assert (service_account.units_folder / "walrusd.service").exists()
    assert service_account.report("install") == {
        "home": str(service_account.home),
        "socket": f"{service_account.home}/walrus.sock",
        "made": [],
        "written": [],
        "pid": None,
        "lingers": None,
        "todo": REMAINING_STEPS,
    }


def test_without_a_user_manager_the_other_steps_are_printed_with_the_reason(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    systemd.set_failure("show-environment", "Failed to connect to bus: No medium found\n")
    systemd.set_linger("Linger=no")
    done = service_account.run("service", "install")
    assert done.exit_code == 0
    assert "no systemd runs for this user (Failed to connect to bus: No medium found)" in done.stderr
    assert service_account.report("install")["todo"] == REMAINING_STEPS
    assert systemd.commands == []


def test_a_service_without_linger_is_reported(service_account: ServiceAccount, systemd: FakeSystemd) -> None:
    systemd.set_linger("Linger=no")
    done = service_account.run("service", "install")
    assert "ends when you log out" in done.stderr
    assert done.stdout.endswith("to do: loginctl enable-linger\n")
    assert service_account.report("status")["lingers"] is False


def test_a_walrusd_that_runs_without_systemd_is_noticed_and_left_alone(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    with held_lock(service_account.home, 12345):
        done = service_account.run("service", "install")
        assert done.exit_code == 0
        assert f"walrusd runs on {service_account.home} already (pid 12345), and not as this service" in done.stderr
        assert service_account.report("install")["todo"] == ["kill 12345", ENABLE_NOW]
        assert not [line for line in systemd.commands if line.startswith("start")]
        assert "(pid 12345), and not as this service" in service_account.run("service", "status").stderr
    with held_lock(service_account.home, 4711):
        systemd.set_service(RUNNING)
        assert service_account.run("service", "status").stderr == ""


def test_a_failed_start_is_reported_with_the_message_of_systemd(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    systemd.set_failure("start", "Job for walrusd.service failed.\n")
    done = service_account.run("service", "install")
    assert done.exit_code == 1
    assert f"`systemctl --user start {BOTH}` failed: Job for walrusd.service failed." in done.stderr
    assert "walrusctl logs" in done.stderr
    assert "failed" in str(service_account.report("install")["error"])


def test_uninstall_stops_it_and_leaves_the_home_and_what_was_put_beside_the_units(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    service_account.run("service", "install")
    beside, wants = (
        service_account.units_folder / "walrusd.service.d",
        service_account.units_folder / "default.target.wants",
    )
    beside.mkdir()
    wants.mkdir()
    (wants / "walrusd.service").symlink_to(service_account.units_folder / "walrusd.service")
    done = service_account.run("service", "uninstall")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"removed {service_account.units_folder}/walrusd.socket",
        f"removed {service_account.units_folder}/walrusd.service",
        f"kept {beside}",
        f"kept {service_account.home}",
    ]
    assert systemd.commands[-2:] == [f"disable --now {BOTH}", "daemon-reload"]
    assert sorted(os.listdir(service_account.units_folder)) == ["default.target.wants", "walrusd.service.d"]
    assert os.listdir(wants) == []
    assert (service_account.home / "walrus.toml").exists()
    assert service_account.report("uninstall") == {
        "removed": [],
        "kept": [str(beside), str(service_account.home)],
        "pid": None,
    }


def test_uninstall_works_without_systemd_and_reports_what_still_runs(service_account: ServiceAccount) -> None:
    service_account.run("service", "install")
    with held_lock(service_account.home, 12345):
        done = service_account.run("service", "uninstall")
    assert done.exit_code == 0
    assert "walrusd still runs" in done.stderr
    assert os.listdir(service_account.units_folder) == []


AS_NOBODY = """
import os
import walrus_config.load, walrusctl.commands.service
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""
"""All that is needed is imported before: it may not be theirs to read."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_unit_that_cannot_be_removed_is_reported() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        desk = ServiceAccount(Path(folder))
        desk.run("service", "install")
        child = desk.start_process("service", "uninstall", prelude=AS_NOBODY)
        _, stderr = child.communicate(timeout=30)
        assert (child.returncode, b"Traceback" in stderr) == (1, False)
        assert f"{desk.units_folder}/walrusd.socket: Permission denied" in stderr.decode()
        assert sorted(os.listdir(desk.units_folder)) == ["walrusd.service", "walrusd.socket"]
