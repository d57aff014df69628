"""Tests that a database row that cannot be decoded makes only its own session fail."""

import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.home import ROOT, Home
from walrus_protocol.client import Client, RequestFailed

TOUR = ROOT / "docs" / "tour"
DEADLINE_S = 30
GREETING = "At your service."

ROWS = {
    "an event": ("event", "body", "WHERE session = 1 AND seq = 2"),
    "the first event": ("event", "body", "WHERE session = 1 AND seq = 1"),
    "the session's own row": ("session", "outline", "WHERE id = 1"),
    "a queued message": ("inbox", "body", "WHERE session = 1"),
}
DAMAGES = {
    "not UTF-8": """CAST('{{"type":"' || x'ff' || '"}}' AS BLOB)""",
    "cut off": "CAST(substr({column}, 1, 12) AS BLOB)",
    "JSON of another shape": """CAST('{{"id":"one","type":3,"place":[],"state":7}}' AS BLOB)""",
    "nested without end": "CAST(replace(hex(zeroblob(5000)), '00', '[') AS BLOB)",
}


@pytest.fixture(scope="module")
def killed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a daemon that was killed while session 1 had a running turn and a queued message."""
    home = Home(tmp_path_factory.mktemp("killed") / "home")
    shutil.copytree(TOUR, home.path, dirs_exist_ok=True)
    with home.walrusd() as daemon:
        for arguments in (("session", "create", "librarian"), ("run", "librarian", "Hello!")):
            assert home.walrusctl(*arguments).returncode == 0
        sends = [home.command_line("send", "1", text) for text in ("A story", "Hello!")]
        running = subprocess.Popen(sends[0], env=home.environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        wait_for_row(home, "draft")
        queued = subprocess.Popen(sends[1], env=home.environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        wait_for_row(home, "inbox")
        daemon.kill()
        for client in (running, queued):
            client.communicate(timeout=DEADLINE_S)
    with closing(sqlite3.connect(home.path / "walrus.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    home.socket.unlink()
    return home.path


def wait_for_row(home: Home, table: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    with closing(sqlite3.connect(f"file:{home.path / 'walrus.db'}?mode=ro", uri=True)) as db:
        while not db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
            assert time.monotonic() < deadline, f"no row was written to {table}"
            time.sleep(0.02)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_cannot_be_decoded_makes_only_its_session_fail(killed_home: Path, tmp_path: Path, row: str) -> None:
    table, column, where = ROWS[row]
    for number, (name, damage) in enumerate(DAMAGES.items()):
        home = Home(tmp_path / str(number))
        shutil.copytree(killed_home, home.path, dirs_exist_ok=True)
        with closing(sqlite3.connect(home.path / "walrus.db")) as db, db:
            assert db.execute(f"UPDATE {table} SET {column} = {damage.format(column=column)} {where}").rowcount
        with home.walrusd() as daemon:
            [left_alone] = daemon.lines_of("session_skipped")
            assert left_alone["session"] == 1, name
            with Client(str(home.socket)) as client:
                assert client.call("agent.run", {"agent": "librarian", "content": "Hello!"})["text"] == GREETING, name
                assert 1 in [session["id"] for session in client.call("session.list", {})["sessions"]], name
                with pytest.raises(RequestFailed) as refused:
                    client.call("session.send", {"session": 1, "content": "more"})
            assert refused.value.kind == "storage_failed", name
            assert "session 1" in refused.value.message, name
            assert "walrusctl doctor" in refused.value.hint, name
        assert "Traceback" not in daemon.stderr, name


def test_an_unreadable_draft_loses_only_its_own_text(killed_home: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(killed_home, home.path, dirs_exist_ok=True)
    with closing(sqlite3.connect(home.path / "walrus.db")) as db, db:
        assert db.execute("""UPDATE draft SET body = CAST('{"text":"' || x'ff' || '"}' AS BLOB)""").rowcount == 1
    with home.walrusd() as daemon:
        assert daemon.lines_of("session_skipped") == []
        assert home.walrusctl("session", "interrupt", "1").returncode == 0
