"""Tests of walrusctl service install and uninstall, with a fake systemctl and without systemctl."""

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
from walrusctl.service_plan import is_temporary

BOTH = "walrusd.socket walrusd.service"
ENABLE_NOW = f"systemctl --user enable --now {BOTH}"
REMAINING_STEPS = ["systemctl --user daemon-reload", ENABLE_NOW, "loginctl enable-linger"]
TOML_WITH_KEY = '[providers.mine]\nkind = "openai"\napi_key = "${SECRET_KEY}"\nmodels = ["m"]\n'


def temporary_warning(home: Path) -> str:
    """Returns the warning that install prints for the homes of these tests."""
    return f"walrusctl: the home {home} is in a temporary folder; it may be deleted at the next boot\n"


@contextlib.contextmanager
def held_lock(home: Path, pid: int) -> Iterator[None]:
    """Holds the lock of the home like a walrusd with this pid."""
    home.mkdir(mode=0o700, exist_ok=True)
    with open(home / "walrusd.lock", "w") as lock:
        lock.write(f"{pid}\n{home}/walrus.sock\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_install_creates_the_home_writes_the_units_and_starts_them(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    done = service_account.run("service", "install")
    assert done.exit_code == 0
    assert {"walrus.toml", "agents", "workspace"} <= set(os.listdir(service_account.home))
    assert done.stdout.startswith(f"home: {service_account.home}\n")
    assert f"created {service_account.home}/workspace\n" in done.stdout
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


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_install_warns_if_the_home_is_in_a_temporary_folder(
    service_account: ServiceAccount, systemd: FakeSystemd, option: tuple[str, ...]
) -> None:
    done = service_account.run("service", "install", *option)
    assert (done.exit_code, done.stderr) == (0, temporary_warning(service_account.home))


def test_a_home_under_tmp_or_the_temporary_folder_is_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("/tmp")
    homes = ("/tmp", "/tmp/x", f"{tmp_path}/link/x", "/var/scratch/x", "/home/ann/.openwalrus", "/tmpfs/x", "/")
    monkeypatch.setattr(tempfile, "tempdir", "/var/scratch")
    assert [home for home in homes if is_temporary(home)] == list(homes[:4])
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert [home for home in homes if is_temporary(home)] == list(homes[:3])


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


def test_changed_units_are_written_but_a_running_service_is_not_restarted(
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


def test_an_explicit_socket_and_home_are_escaped_in_the_units(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    home, socket = f"{service_account.environ['HOME']}/50% $HOME [x]", f"{service_account.environ['HOME']}/w.sock"
    assert service_account.run("service", "install", "--home", home, "--socket", socket).exit_code == 0
    arguments = f'"--home" "{service_account.environ["HOME"]}/50%% $$HOME [x]" "--socket" "{socket}"\n'
    assert arguments in service_account.read_unit("walrusd.service")
    assert (
        f"\nEnvironmentFile=-{service_account.environ['HOME']}/50%% $HOME [[]x]/environment\n"
        in service_account.read_unit("walrusd.service")
    )
    assert f"\nListenStream={socket}\n" in service_account.read_unit("walrusd.socket")


def test_a_path_that_units_cannot_contain_is_refused(service_account: ServiceAccount, systemd: FakeSystemd) -> None:
    done = service_account.run("service", "install", "--home", f"{service_account.environ['HOME']}/two\nlines")
    assert done.exit_code == 2
    assert "cannot be written into a systemd unit" in done.stderr
    assert not service_account.units_folder.exists()


def test_a_configuration_with_errors_is_not_installed_without_force(
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


def test_a_key_that_only_the_shell_has_is_reported_with_the_file_to_put_it_in(
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
def test_a_key_in_the_environment_file_is_used(
    service_account: ServiceAccount, systemd: FakeSystemd, line: str
) -> None:
    service_account.write_config(TOML_WITH_KEY)
    (service_account.home / "environment").write_text(line)
    (service_account.home / "environment").chmod(0o600)
    done = service_account.run("service", "install")
    assert (done.exit_code, done.stderr) == (0, temporary_warning(service_account.home))
    (service_account.home / "environment").chmod(0o644)
    assert "others may read" in service_account.run("service", "install").stderr


def test_a_key_in_the_environment_of_systemd_is_used(service_account: ServiceAccount, systemd: FakeSystemd) -> None:
    service_account.write_config(TOML_WITH_KEY)
    systemd.set_environment("HOME=/home/ann", "SECRET_KEY=sk-1")
    assert service_account.run("service", "install").exit_code == 0


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_an_edited_unit_is_not_changed_without_force(
    service_account: ServiceAccount, systemd: FakeSystemd, command: str
) -> None:
    service_account.run("service", "install")
    edited = service_account.read_unit("walrusd.service").replace("RestartSec=5", "RestartSec=50")
    (service_account.units_folder / "walrusd.service").write_text(edited)
    commands = systemd.commands
    done = service_account.run("service", command)
    assert done.exit_code == 1
    assert f"{service_account.units_folder}/walrusd.service was edited by hand" in done.stderr
    assert "systemctl --user edit walrusd.service" in done.stderr
    assert (service_account.read_unit("walrusd.service"), systemd.commands) == (edited, commands)
    assert service_account.run("service", command, "--force").exit_code == 0
    assert not (
        service_account.units_folder / "walrusd.service"
    ).exists() or "RestartSec=5\n" in service_account.read_unit("walrusd.service")


@pytest.mark.parametrize("kind", ["foreign", "masked"])
def test_a_foreign_unit_is_neither_replaced_nor_removed(
    service_account: ServiceAccount, systemd: FakeSystemd, kind: str
) -> None:
    service_account.units_folder.mkdir(parents=True)
    unit = service_account.units_folder / "walrusd.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n") if kind == "foreign" else unit.symlink_to("/dev/null")
    before = unit.lstat()
    done = service_account.run("service", "install")
    assert done.exit_code == 1
    assert f"{unit} was not written by walrusctl" in done.stderr
    assert f"kept {unit}" in service_account.run("service", "uninstall", "--force").stdout
    assert os.path.samestat(before, unit.lstat())


def test_without_a_systemctl_the_units_are_written_and_the_other_steps_printed(service_account: ServiceAccount) -> None:
    done = service_account.run("service", "install")
    assert done.exit_code == 0
    assert done.stderr == (
        "walrusctl: there is no systemctl here: walrusd was not started\n"
        + temporary_warning(service_account.home)
        + "walrusctl: without lingering, it starts when you log in and stops when you log out\n"
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


def test_without_a_user_systemd_the_other_steps_are_printed_with_the_reason(
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
    assert "stops when you log out" in done.stderr
    assert done.stdout.endswith("to do: loginctl enable-linger\n")
    assert service_account.report("status")["lingers"] is False


def test_a_walrusd_that_runs_without_systemd_is_reported_and_not_stopped(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    with held_lock(service_account.home, 12345):
        done = service_account.run("service", "install")
        assert done.exit_code == 0
        assert f"walrusd already runs on {service_account.home} (pid 12345), but not as this service" in done.stderr
        assert service_account.report("install")["todo"] == ["kill 12345", ENABLE_NOW]
        assert not [line for line in systemd.commands if line.startswith("start")]
        assert "(pid 12345), but not as this service" in service_account.run("service", "status").stderr
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


def test_uninstall_stops_the_service_and_keeps_the_home_and_drop_ins(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    service_account.run("service", "install")
    drop_ins, wants = (
        service_account.units_folder / "walrusd.service.d",
        service_account.units_folder / "default.target.wants",
    )
    drop_ins.mkdir()
    wants.mkdir()
    (wants / "walrusd.service").symlink_to(service_account.units_folder / "walrusd.service")
    done = service_account.run("service", "uninstall")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"removed {service_account.units_folder}/walrusd.socket",
        f"removed {service_account.units_folder}/walrusd.service",
        f"kept {drop_ins}",
        f"kept {service_account.home}",
    ]
    assert systemd.commands[-2:] == [f"disable --now {BOTH}", "daemon-reload"]
    assert sorted(os.listdir(service_account.units_folder)) == ["default.target.wants", "walrusd.service.d"]
    assert os.listdir(wants) == []
    assert (service_account.home / "walrus.toml").exists()
    assert service_account.report("uninstall") == {
        "removed": [],
        "kept": [str(drop_ins), str(service_account.home)],
        "pid": None,
    }


def test_uninstall_works_without_systemd_and_reports_a_running_walrusd(service_account: ServiceAccount) -> None:
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
"""A prelude that switches to the user `nobody`.

It imports all modules first, since the other user may not be able to read them.
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_unit_that_cannot_be_removed_is_reported() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        account = ServiceAccount(Path(folder))
        account.run("service", "install")
        child = account.start_process("service", "uninstall", prelude=AS_NOBODY)
        _, stderr = child.communicate(timeout=30)
        assert (child.returncode, b"Traceback" in stderr) == (1, False)
        assert f"{account.units_folder}/walrusd.socket: Permission denied" in stderr.decode()
        assert sorted(os.listdir(account.units_folder)) == ["walrusd.service", "walrusd.socket"]
