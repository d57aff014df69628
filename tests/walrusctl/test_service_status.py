"""walrusctl service status: how the service is, and how it ended last."""

import pytest

from tests.fakes.desk import Desk
from tests.fakes.systemctl import RUNNING, FakeSystemd


def test_status_says_how_it_is_by_its_exit_status_too(desk: Desk, systemd: FakeSystemd) -> None:
    none = desk.types("service", "status")
    assert (none.exit_code, "`walrusctl service install`" in none.stderr) == (3, True)
    assert not desk.home.exists()
    desk.types("service", "install")
    runs = desk.types("service", "status")
    assert (runs.exit_code, runs.stderr) == (0, "")
    assert runs.stdout.splitlines()[2:] == [
        "enabled          enabled",
        "state            active, running",
        "socket           listening",
        "pid              4711",
        "restarts         0",
        "lingers          yes",
    ]
    assert desk.report("status") == {
        "installed": True,
        "home": str(desk.home),
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


ENDS = [
    (
        "1",
        "78",
        "exit-code",
        "exit status 78: the configuration or the database cannot be used; `walrusctl logs`",
        {"status": 78},
    ),
    ("1", "3", "exit-code", "exit status 3\n", {"status": 3}),
    ("2", "9", "signal", "killed by signal 9 (KILL)\n", {"signal": 9}),
    ("2", "9", "oom-kill", "killed by signal 9 (KILL): the system had no memory left\n", {"signal": 9}),
    ("3", "6", "watchdog", "killed by signal 6 (ABRT): by the watchdog", {"signal": 6}),
    ("2", "77", "signal", "killed by signal 77\n", {"signal": 77}),
]


def ended(code: str, status: str, result: str) -> str:
    lines = {"ActiveState": "failed", "SubState": "failed", "UnitFileState": "enabled", "MainPID": "0"}
    lines |= {"Result": result, "ExecMainCode": code, "ExecMainStatus": status, "NRestarts": "0"}
    return "".join(f"{name}={value}\n" for name, value in lines.items())


@pytest.mark.parametrize(("code", "status", "result", "words", "said"), ENDS)
def test_how_it_ended_last_is_told_in_words(
    desk: Desk, systemd: FakeSystemd, code: str, status: str, result: str, words: str, said: dict[str, int]
) -> None:
    desk.types("service", "install")
    systemd.service(ended(code, status, result))
    systemd.socket("ActiveState=inactive\n")
    done = desk.types("service", "status")
    assert done.exit_code == 4
    assert f"\nlast end         {words}" in done.stdout
    assert "\nstate            failed\nsocket           inactive\n" in done.stdout
    assert desk.report("status")["last_end"] == said


def test_a_clean_end_is_no_news(desk: Desk, systemd: FakeSystemd) -> None:
    desk.types("service", "install")
    systemd.service(ended("1", "0", "success"))
    assert "last end" not in desk.types("service", "status").stdout
    assert desk.report("status")["last_end"] == {"status": 0}


KILLED = '{"EXIT_CODE": "killed", "EXIT_STATUS": "9", "MESSAGE": [1, 2]}\n'


@pytest.mark.parametrize(
    ("restarts", "journal", "said"),
    [
        ("1", KILLED, {"signal": 9}),
        ("1", KILLED.replace("killed", "dumped").replace("9", "6"), {"signal": 6}),
        ("1", KILLED.replace("killed", "exited").replace("9", "1"), {"status": 1}),
        ("1", "", None),
        ("1", "[]", None),
        ("1", "no journal", None),
        ("0", KILLED, None),
    ],
)
def test_what_made_it_start_again_is_told_from_the_journal_while_it_runs(
    desk: Desk, systemd: FakeSystemd, restarts: str, journal: str, said: dict[str, int] | None
) -> None:
    desk.types("service", "install")
    systemd.service(RUNNING.replace("NRestarts=0", f"NRestarts={restarts}"))
    systemd.journal(journal)
    assert desk.report("status")["last_end"] == said
    shown = desk.types("service", "status").stdout
    assert ("last end" in shown) == (said is not None)


def test_status_without_systemd_says_so(desk: Desk) -> None:
    desk.types("service", "install")
    done = desk.types("service", "status")
    assert (done.exit_code, done.stderr) == (4, "walrusctl: there is no systemctl here\n")


def test_status_without_a_manager_of_the_user_says_how_to_have_one(desk: Desk, systemd: FakeSystemd) -> None:
    desk.types("service", "install")
    systemd.refuses("show-environment", "Failed to connect to bus: No medium found\n")
    done = desk.types("service", "status")
    assert done.exit_code == 4
    assert "hint: log in as yourself, not by su or sudo" in done.stderr
