"""Tests of walrusctl service status: the state of the service, and how its last process ended."""

import pytest

from tests.fakes.service_account import ServiceAccount
from tests.fakes.systemctl import RUNNING, FakeSystemd


def test_service_status_reports_the_state_also_by_its_exit_status(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    missing = service_account.run("service", "status")
    assert (missing.exit_code, "`walrusctl service install`" in missing.stderr) == (3, True)
    assert not service_account.home.exists()
    service_account.run("service", "install")
    running = service_account.run("service", "status")
    assert (running.exit_code, running.stderr) == (0, "")
    assert running.stdout.splitlines()[2:] == [
        "enabled          enabled",
        "state            active, running",
        "socket           listening",
        "pid              4711",
        "restarts         0",
        "lingers          yes",
    ]
    assert service_account.report("status") == {
        "installed": True,
        "home": str(service_account.home),
        "up_to_date": True,
        "units": {"walrusd.socket": "current", "walrusd.service": "current"},
        "enabled": "enabled",
        "active": "active",
        "sub": "running",
        "socket": "listening",
        "pid": 4711,
        "result": "success",
        "last_end": None,
        "restarts": 0,
        "lingers": True,
    }


EXIT_CASES = [
    (
        "1",
        "78",
        "exit-code",
        "exit status 78: the configuration or the database cannot be used; `walrusctl logs`",
        {"status": 78},
    ),
    ("1", "3", "exit-code", "exit status 3\n", {"status": 3}),
    ("2", "9", "signal", "killed by signal 9 (KILL)\n", {"signal": 9}),
    ("2", "9", "oom-kill", "killed by signal 9 (KILL): the system ran out of memory\n", {"signal": 9}),
    ("3", "6", "watchdog", "killed by signal 6 (ABRT): by the watchdog", {"signal": 6}),
    ("2", "77", "signal", "killed by signal 77\n", {"signal": 77}),
]


def systemctl_properties(code: str, status: str, result: str) -> str:
    lines = {"ActiveState": "failed", "SubState": "failed", "UnitFileState": "enabled", "MainPID": "0"}
    lines |= {"Result": result, "ExecMainCode": code, "ExecMainStatus": status, "NRestarts": "0"}
    return "".join(f"{name}={value}\n" for name, value in lines.items())


@pytest.mark.parametrize(("code", "status", "result", "text", "as_json"), EXIT_CASES)
def test_the_last_exit_is_described_in_words(
    service_account: ServiceAccount,
    systemd: FakeSystemd,
    code: str,
    status: str,
    result: str,
    text: str,
    as_json: dict[str, int],
) -> None:
    service_account.run("service", "install")
    systemd.set_service(systemctl_properties(code, status, result))
    systemd.set_socket("ActiveState=inactive\n")
    done = service_account.run("service", "status")
    assert done.exit_code == 4
    assert f"\nlast end         {text}" in done.stdout
    assert "\nstate            failed\nsocket           inactive\n" in done.stdout
    assert service_account.report("status")["last_end"] == as_json


def test_a_clean_exit_is_not_reported(service_account: ServiceAccount, systemd: FakeSystemd) -> None:
    service_account.run("service", "install")
    systemd.set_service(systemctl_properties("1", "0", "success"))
    assert "last end" not in service_account.run("service", "status").stdout
    assert service_account.report("status")["last_end"] == {"status": 0}


KILLED_JOURNAL_ENTRY = '{"EXIT_CODE": "killed", "EXIT_STATUS": "9", "MESSAGE": [1, 2]}\n'


@pytest.mark.parametrize(
    ("restarts", "journal", "last_end"),
    [
        ("1", KILLED_JOURNAL_ENTRY, {"signal": 9}),
        ("1", KILLED_JOURNAL_ENTRY.replace("killed", "dumped").replace("9", "6"), {"signal": 6}),
        ("1", KILLED_JOURNAL_ENTRY.replace("killed", "exited").replace("9", "1"), {"status": 1}),
        ("1", "", None),
        ("1", "[]", None),
        ("1", "no journal", None),
        ("0", KILLED_JOURNAL_ENTRY, None),
    ],
)
def test_the_cause_of_a_restart_is_reported_from_the_journal_while_it_runs(
    service_account: ServiceAccount, systemd: FakeSystemd, restarts: str, journal: str, last_end: dict[str, int] | None
) -> None:
    service_account.run("service", "install")
    systemd.set_service(RUNNING.replace("NRestarts=0", f"NRestarts={restarts}"))
    systemd.set_journal(journal)
    assert service_account.report("status")["last_end"] == last_end
    shown = service_account.run("service", "status").stdout
    assert ("last end" in shown) == (last_end is not None)


def test_status_reports_a_missing_systemctl(service_account: ServiceAccount) -> None:
    service_account.run("service", "install")
    done = service_account.run("service", "status")
    assert (done.exit_code, done.stderr) == (4, "walrusctl: there is no systemctl here\n")


def test_status_without_a_user_systemd_shows_how_to_get_one(
    service_account: ServiceAccount, systemd: FakeSystemd
) -> None:
    service_account.run("service", "install")
    systemd.set_failure("show-environment", "Failed to connect to bus: No medium found\n")
    done = service_account.run("service", "status")
    assert done.exit_code == 4
    assert "hint: log in as yourself, not by su or sudo" in done.stderr
