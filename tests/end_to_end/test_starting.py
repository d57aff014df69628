"""Tests of starting walrusd.

Each reason that prevents a start is reported with a hint, and nothing is changed.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.home import ECHO, Home
from walrus_protocol.client import Client

EXIT_UNUSABLE = 78
EXIT_ALREADY_RUNNING = 75
APPLICATION_ID = 0x57414C52


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home that a test may leave with any permissions; it can still be removed."""
    home = Home(tmp_path / "home")
    yield home
    home.path.chmod(0o700)


def check_answers(home: Home, session: int | None = None) -> int:
    """Checks that a session answers, a new one by default; returns its id."""
    with Client(str(home.socket)) as client:
        session = session or client.call("session.create", {"agent": "walrus"})["session"]
        assert client.call("session.send", {"session": session, "content": "hi"})["text"] == "hi"
    assert session is not None
    return session


def test_a_missing_walrus_toml_is_reported_with_a_hint(home: Home) -> None:
    home.toml.unlink()
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert stderr.startswith(f"walrusd: {home.toml}: there is no such file; ")
    assert "an empty file is enough" in stderr
    assert os.listdir(home.path) == []


def test_init_creates_a_working_home_and_leaves_an_existing_one_unchanged(tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    shutil.rmtree(home.path)
    with home.walrusd("--init"):
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
        assert {"walrus.toml", "agents", "workspace"} <= set(os.listdir(home.path))
    home.write("walrus.toml", ECHO)
    with home.walrusd("--init"):
        assert home.toml.read_text() == ECHO
        check_answers(home)


def test_the_default_workspace_is_created_if_it_is_missing(home: Home) -> None:
    home.write("walrus.toml", ECHO + '[agents.poet]\nworkspace = "poems"\n')
    home.write("agents/poet.md", "Rhyme.")
    with home.walrusd() as daemon:
        assert stat.S_IMODE((home.path / "workspace").stat().st_mode) == 0o700
        [warning] = [line["message"] for line in daemon.log_lines if line.get("level") == "warning"]
        status = home.walrusctl("status", "--json").stdout
    assert warning == (
        f"{home.toml}:10: agents.poet.workspace: there is no folder {home.path}/poems for poet to work in; create it"
    )
    assert json.loads(status)["warnings"] == [warning]


def test_a_default_workspace_that_cannot_be_created_is_reported(home: Home) -> None:
    (home.path / "workspace").write_text("")
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert stderr == f"walrusd: {home.toml}:4: defaults.workspace: {home.path}/workspace is not a folder\n"


def test_an_unclean_end_is_reported_only_by_the_next_start(home: Home) -> None:
    with home.walrusd() as daemon:
        killed = daemon.pid
        daemon.kill()
    with home.walrusd() as daemon:
        [warning] = [line for line in daemon.log_lines if line.get("level") == "warning"]
        assert (warning["event"], warning["previous_pid"]) == ("previous_run_not_stopped", killed)
    with home.walrusd() as daemon:
        assert not [line for line in daemon.log_lines if line.get("level") == "warning"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[agents.walrus]\nmodle = 1", "{toml}:2: agents.walrus.modle: unknown key; did you mean model?"),
        ('[daemn]\nsocket = "x"', "{toml}:1: daemn: unknown key; did you mean daemon?"),
        ("[storage]\ndurability = 7", "{toml}:2: storage.durability: "),
        ('[storage]\ndurability = "most"', '{toml}:2: storage.durability: "most" is not one of full, normal'),
        ("[agents.walrus]\nmax_iterations = 0", "{toml}:2: agents.walrus.max_iterations: must be at least 1"),
        ('[agents.walrus]\nmodel = "ehco"', '{toml}:2: agents.walrus.model: no provider has the model "ehco"; did you'),
        ("[storage]\n= what", "{toml}:2: "),
        ('[providers.x]\nkind = "openai"\napi_key = "${NO_SUCH_KEY}"', "NO_SUCH_KEY"),
        ("[agents.walrus.budget]\nusd_per_day = 1", "not available yet"),
    ],
)
def test_a_broken_walrus_toml_is_reported_with_its_line(home: Home, text: str, expected: str) -> None:
    home.write("walrus.toml", f"{text}\n{ECHO}")
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert expected.format(toml=home.toml) in stderr
    assert "Traceback" not in stderr


def test_all_config_errors_are_reported_together(home: Home) -> None:
    home.write("walrus.toml", "[agents.a]\nmodle = 1\n[agents.b]\nthinkin = true\n")
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert [line.rpartition("home/")[2].split(" ")[0] for line in stderr.splitlines()] == [
        "walrus.toml:2:",
        "walrus.toml:4:",
    ]


def test_a_second_walrusd_on_a_home_names_the_first_and_leaves_it_alone(home: Home, tmp_path: Path) -> None:
    with home.walrusd() as first:
        for options in ((), ("--socket", str(tmp_path / "other.sock"))):
            status, stderr = home.run_to_exit(*options)
            assert status == EXIT_ALREADY_RUNNING
            assert f"pid {first.pid}" in stderr
            assert str(home.socket) in stderr
        check_answers(home)


def test_two_homes_cannot_share_a_socket(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    with home.walrusd() as first:
        status, stderr = other.run_to_exit("--socket", str(home.socket))
        assert status == EXIT_UNUSABLE
        assert f"pid {first.pid}" in stderr
        check_answers(home)


@pytest.mark.parametrize(("mode", "expected"), [(0o770, "chmod"), (0o707, "chmod"), (0o777, "chmod")])
def test_a_home_that_others_can_write_is_refused(home: Home, mode: int, expected: str) -> None:
    home.path.chmod(mode)
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert str(home.path) in stderr
    assert expected in stderr
    assert os.listdir(home.path) == ["walrus.toml"]


def test_a_missing_home_is_reported(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.rmtree(home.path)
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert str(home.path) in stderr


def test_a_home_that_is_a_file_is_reported(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.rmtree(home.path)
    home.path.write_text("not a folder")
    for options in ((), ("--init",)):
        status, stderr = home.run_to_exit(*options)
        assert (status, str(home.path) in stderr) == (EXIT_UNUSABLE, True)
    assert home.path.read_text() == "not a folder"


AS_NOBODY = """
import os, sys
from walrusd.__main__ import main
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv = sys.argv[3:]
main()
"""
"""A wrapper that runs walrusd as the user `nobody`.

It imports walrusd first, because that user may be unable to read it.
"""


def test_a_home_that_cannot_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        home = Home(Path(folder) / "home")
        if os.geteuid() == 0:
            os.chown(home.path, 65534, 65534)
            os.chown(home.toml, 65534, 65534)
        home.path.chmod(0o500)
        status, stderr = home.run_to_exit(wrapper=[sys.executable, "-c", AS_NOBODY])
        home.path.chmod(0o700)
        assert status == EXIT_UNUSABLE
        assert f"{home.path}: the home is not writable" in stderr
        assert "chmod" in stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a folder")
def test_a_home_of_another_user_is_refused(home: Home) -> None:
    os.chown(home.path, 65534, 65534)
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert "belongs to" in stderr
    os.chown(home.path, 0, 0)


def test_a_socket_path_that_is_too_long_is_reported_with_the_limit(home: Home, tmp_path: Path) -> None:
    status, stderr = home.run_to_exit("--socket", str(tmp_path / ("x" * 120)))
    assert status == EXIT_UNUSABLE
    assert "107" in stderr
    assert "--socket" in stderr


def test_a_home_too_deep_for_a_socket_gets_a_hint(tmp_path: Path) -> None:
    home = Home(tmp_path / ("deep" * 20) / "home")
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert "--socket" in stderr
    with tempfile.TemporaryDirectory() as short, home.walrusd("--socket", f"{short}/w.sock"):
        pass


def test_a_file_where_the_socket_should_be_is_never_removed(home: Home) -> None:
    home.socket.write_text("user data")
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert f"{home.socket} exists and is not a socket" in stderr
    assert home.socket.read_text() == "user data"


def test_a_stale_socket_is_replaced(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home.socket))
    with home.walrusd():
        check_answers(home)


def test_after_kill_9_walrusd_starts_with_its_history(home: Home) -> None:
    with home.walrusd() as daemon:
        session = check_answers(home)
        daemon.kill()
    assert home.socket.exists()
    with home.walrusd() as daemon:
        assert check_answers(home, session) == session
        with Client(str(daemon.socket)) as client:
            history = client.call("session.history", {"session": session})["messages"]
            assert [message["content"] for message in history] == ["hi"] * 4
            assert client.call("session.create", {"agent": "walrus"})["session"] == session + 1


def test_without_a_provider_walrusd_starts_with_a_warning_and_turns_fail_with_a_hint(home: Home) -> None:
    home.write("walrus.toml", "")
    with home.walrusd(environ={"DEEPSEEK_API_KEY": "sk-never-shown"}) as daemon:
        with Client(str(home.socket)) as client:
            session = client.call("session.create", {"agent": "walrus"})["session"]
            turn = client.call("session.send", {"session": session, "content": "hi"})
            assert (turn["stop_reason"], turn["error"]["kind"]) == ("error", "no_provider")
            assert "DEEPSEEK_API_KEY" in turn["error"]["hint"]
            [warning] = client.call("daemon.status")["warnings"]
        assert "[providers.deepseek]" in warning
        assert [line["message"] for line in daemon.log_lines if line.get("level") == "warning"] == [warning]
        assert "sk-never-shown" not in daemon.stderr


def test_the_first_session_of_a_home_is_1(home: Home) -> None:
    with home.walrusd():
        assert check_answers(home) == 1


def test_a_file_that_is_not_a_database_is_reported_and_not_changed(home: Home) -> None:
    database = home.write("walrus.db", "this is not SQLite " * 100)
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert str(database) in stderr
    assert "Traceback" not in stderr
    assert database.read_text() == "this is not SQLite " * 100


def write_database_header(home: Home, application: int, schema: int, table: str = "") -> None:
    with closing(sqlite3.connect(home.path / "walrus.db")) as db:
        db.executescript(f"PRAGMA application_id = {application}; PRAGMA user_version = {schema}; {table}")


@pytest.mark.parametrize(
    ("application", "schema", "table", "reason"),
    [
        (APPLICATION_ID, 99, "CREATE TABLE t (x);", "was written by a newer walrusd: its schema is version 99"),
        (APPLICATION_ID, 3, "", "has lost its tables: it is marked as walrusd's, with schema 3, but empty"),
        (7, 3, "CREATE TABLE t (x);", "is a database of another program"),
    ],
)
def test_an_unusable_database_ends_walrusd_with_a_permanent_status(
    home: Home, application: int, schema: int, table: str, reason: str
) -> None:
    write_database_header(home, application, schema, table)
    status, stderr = home.run_to_exit()
    assert status == EXIT_UNUSABLE
    assert stderr.startswith(f"walrusd: {home.path}/walrus.db {reason}")
    assert len(stderr.splitlines()) == 2


def test_a_locked_database_ends_walrusd_with_a_temporary_status(home: Home) -> None:
    with home.walrusd():
        pass
    with closing(sqlite3.connect(home.path / "walrus.db")) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        status, stderr = home.run_to_exit()
    assert status == 1
    assert "is locked by another process" in stderr


@pytest.mark.parametrize("lost", ["emptied", "removed"])
def test_a_new_log_in_a_home_that_was_in_use_is_logged_as_a_warning(home: Home, lost: str) -> None:
    database, event = home.path / "walrus.db", "empty_database_in_used_home"
    with home.walrusd() as daemon:
        check_answers(home)
    assert daemon.lines_of(event) == []
    database.unlink()
    if lost == "emptied":
        database.touch(0o600)
    with home.walrusd() as daemon:
        assert check_answers(home) == 1
    [line] = daemon.lines_of(event)
    assert (line["level"], line["database"]) == ("warning", str(database))
    with home.walrusd() as daemon:
        pass
    assert daemon.lines_of(event) == []


def test_sigint_stops_walrusd_like_sigterm(home: Home) -> None:
    with home.walrusd() as daemon:
        daemon.signal(signal.SIGINT)
        assert daemon.wait_exit() == 0
    assert not home.socket.exists()
