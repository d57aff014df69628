"""Tests of walrusctl doctor: the database, disk space, the clock, limits and programs."""

import json
import resource
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.home import ECHO, Home
from tests.walrusctl.doctor_findings import doctor_findings, finding_of
from walrus_protocol.database.schema import SCHEMA_VERSION


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def used_home(home: Home) -> Home:
    """A home whose database was written by a real walrusd, which has exited."""
    with home.walrusd():
        assert home.walrusctl("run", "walrus", "hi").returncode == 0
    return home


def test_a_damaged_database_is_reported(used_home: Home) -> None:
    database = used_home.path / "walrus.db"
    data = bytearray(database.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 8] = b"\xff" * 8
    database.write_bytes(data)
    status, message, hint = finding_of(used_home, "database")
    assert (status, message.startswith(f"{database} is damaged")) == ("error", True)
    assert ".recover" in hint


def test_a_file_that_is_not_a_database_or_is_of_another_program_is_reported(home: Home) -> None:
    database = home.write("walrus.db", "this is not SQLite " * 100)
    assert finding_of(home, "database")[:2] == ("error", f"{database} is not a database")
    database.unlink()
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE theirs (x)")
        db.execute("PRAGMA application_id = 7")
    assert finding_of(home, "database")[:2] == ("error", f"{database} is a database of another program")


@pytest.mark.parametrize(("how", "message"), [("emptied", "is empty"), ("removed", "is missing")])
def test_a_missing_log_is_reported(used_home: Home, how: str, message: str) -> None:
    database = used_home.path / "walrus.db"
    database.unlink()
    if how == "emptied":
        database.touch(0o600)
    assert finding_of(used_home, "database") == (
        "warning",
        f"{database} {message}, although this home was in use: the next start creates a new, empty log",
        "if you did not remove it, restore it from a backup",
    )


def test_a_database_that_has_lost_its_tables_is_reported(home: Home) -> None:
    database = home.path / "walrus.db"
    with closing(sqlite3.connect(database)) as db:
        db.executescript("PRAGMA application_id = 0x57414C52; PRAGMA user_version = 3")
    assert finding_of(home, "database")[:2] == ("error", f"{database} has lost its tables")


def test_a_database_of_a_newer_walrusd_is_reported(used_home: Home) -> None:
    database = used_home.path / "walrus.db"
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA user_version = 99")
    status, message, _ = finding_of(used_home, "database")
    assert status == "error"
    assert f"its schema version is 99, this walrusctl knows {SCHEMA_VERSION}" in message


def test_a_clock_that_is_behind_the_newest_event_is_reported(used_home: Home) -> None:
    assert finding_of(used_home, "clock")[0] != "error"
    with closing(sqlite3.connect(used_home.path / "walrus.db")) as db, db:
        body = json.dumps({"ts": time.time() + 7200}).encode()
        db.execute("INSERT INTO event (session, seq, body) VALUES (1, 999, ?)", [body])
    status, message, hint = finding_of(used_home, "clock")
    assert status == "warning"
    assert "but the last event was written at" in message
    assert "timedatectl" in hint


def test_a_low_limit_of_open_files_is_reported(home: Home) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with home.walrusd() as daemon:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (100, before[1]))
        status, message, hint = finding_of(home, "limits")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
    assert (status, message) == ("warning", "walrusd may open 100 files: that is enough for 40 of 512 connections")
    assert "LimitNOFILE=808" in hint


@pytest.fixture
def home_on_full_disk(tmp_path: Path) -> Iterator[Home]:
    folder = tmp_path / "full"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small file system")
    yield Home(folder / "home")
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_reported(home_on_full_disk: Home) -> None:
    status, message, hint = finding_of(home_on_full_disk, "disk")
    assert (status, message.partition(" free")[0]) == ("error", "1.0 MiB of 1.0 MiB")
    assert "free disk space" in hint


def test_missing_programs_that_tools_need_are_reported(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home.path))
    assert [message for _, message, _ in doctor_findings(home.path)["programs"]] == [
        "bash is not on the PATH",
        "setpriv is not on the PATH",
    ]


def test_bash_without_a_sandbox_is_reported_once(home: Home) -> None:
    home.write("walrus.toml", f'{ECHO}\n[tools.bash]\nsandbox = "none"\n')
    found = doctor_findings(home.path)
    assert found["sandbox"][0][:2] == (
        "warning",
        "bash runs without a sandbox: a permitted command can do whatever you can",
    )
    assert found["configuration"][0][0] == "ok"


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("", "is not set"), ("/no/such/folder", "No such file or directory"), ("/tmp", "open to others")],
)
def test_an_unusable_runtime_folder_is_reported(
    home: Home, monkeypatch: pytest.MonkeyPatch, folder: str, expected: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    status, message, _ = finding_of(home, "runtime folder")
    assert (status, expected in message) == ("warning", True)
