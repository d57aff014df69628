"""Tests of retention in a real walrusd through walrusctl: which sessions are deleted and which remain."""

import json
import os
from pathlib import Path

import apsw

from tests.fakes.home import ECHO, Home
from tests.rpc.raw_client import open_raw_client

DAY_S = 86_400.0


def backdate_closing(home: Home, *sessions: int) -> None:
    """Changes the database as if these sessions had been closed ten days ago."""
    db = apsw.Connection(str(home.path / "walrus.db"))
    db.execute("PRAGMA journal_mode = wal")
    for session in sessions:
        db.execute("UPDATE session SET closed_at = closed_at - ? WHERE id = ?", (10 * DAY_S, session))
    db.close()


def run_json(home: Home, *words: str) -> dict[str, object]:
    answer = json.loads(home.walrusctl("--json", *words).stdout)
    assert isinstance(answer, dict)
    return answer


def session_ids(home: Home) -> list[str]:
    lines = home.walrusctl("--json", "session", "list", "--all").stdout
    return [str(session["id"]) for session in json.loads(lines)["sessions"]]


def test_an_old_session_is_deleted_at_start_and_its_fork_remains(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO)
    with home.walrusd():
        for _ in range(2):
            session = home.walrusctl("session", "create", "walrus").stdout.strip()
            home.walrusctl("send", session, f"Hello from {session}")
            home.walrusctl("session", "close", session)
        assert home.walrusctl("session", "fork", "1").stdout == "3\n"
        assert run_json(home, "gc", "--dry-run")["sessions"] == 0
        home.write("walrus.toml", ECHO + "[storage]\nretain_closed_days = 7\n")
        assert home.walrusctl("reload").stdout == "changed: storage.retain_closed_days\n"
        assert run_json(home, "gc", "--dry-run")["sessions"] == 0
    backdate_closing(home, 1, 2)
    with home.walrusd() as daemon:
        daemon.wait_for(lambda walrusd: bool(walrusd.lines_of("retention_deleted")))
        assert session_ids(home) == ["3"]
        assert home.walrusctl("send", "1", "Hello?").returncode == 3
        assert home.walrusctl("session", "history", "3").stdout == "user: Hello from 1\nassistant: Hello from 1\n"
        assert run_json(home, "session", "search", "hello")["hits"] == []
        daemon.kill()
    with home.walrusd():
        assert home.walrusctl("session", "history", "3").stdout == "user: Hello from 1\nassistant: Hello from 1\n"


def test_a_manual_gc_reports_what_it_deleted(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO)
    with home.walrusd():
        session = home.walrusctl("session", "create", "walrus").stdout.strip()
        home.walrusctl("send", session, "-", stdin="x" * 3_500_000)
        home.walrusctl("session", "close", session)
        home.write("walrus.toml", ECHO + "[storage]\nmax_db_bytes = 2000000\n")
        output = home.walrusctl("gc", "--dry-run").stdout
        assert output.startswith("would delete 0 sessions"), "a setting must not apply before a reload"
        size = os.stat(home.path / "walrus.db").st_size + os.stat(home.path / "walrus.db-wal").st_size
        assert size > 3_000_000
        home.walrusctl("reload")
        collected = run_json(home, "gc")
        assert home.walrusctl("gc").stdout.startswith("deleted 0 sessions (0 events) and 0 outputs\n")
        assert session_ids(home) == []
        assert isinstance(collected["db_bytes"], int)
        assert collected["db_bytes"] < 2_500_000
    assert os.stat(home.path / "walrus.db").st_size < 2_500_000


def test_status_and_doctor_report_open_sessions_over_the_size_limit(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO + "[storage]\nmax_db_bytes = 1048576\n")
    with home.walrusd():
        session = home.walrusctl("session", "create", "walrus").stdout.strip()
        home.walrusctl("send", session, "-", stdin="x" * 2_000_000)
        home.walrusctl("gc")
        assert "more than storage.max_db_bytes allows (1.0 MB)" in home.walrusctl("status").stderr
    checks = run_json(home, "doctor")["checks"]
    assert isinstance(checks, list)
    [space] = [check for check in checks if check["name"] == "space"]
    assert space["status"] == "warning"
    assert "storage.max_db_bytes allows 1.0 MB" in space["message"]
    assert session_ids_after_start(home) == [session]


def test_after_a_clock_jump_old_sessions_are_kept_for_a_day_or_until_a_manual_gc(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO + "[storage]\nretain_closed_days = 7\n")
    with home.walrusd():
        session = home.walrusctl("session", "create", "walrus").stdout.strip()
        home.walrusctl("session", "close", session)
    backdate_closing(home, int(session))
    db = apsw.Connection(str(home.path / "walrus.db"))
    one_year_s = 365 * DAY_S
    db.execute("UPDATE event SET body = CAST(json_replace(body, '$.ts', (body ->> '$.ts') - ?) AS BLOB)", (one_year_s,))
    db.close()
    with home.walrusd() as daemon:
        daemon.wait_for(lambda walrusd: bool(walrusd.lines_of("clock_jumped")))
        assert "retain_closed_days are kept for 24.0 hours more" in home.walrusctl("status").stderr
        assert session_ids(home) == [session]
        assert run_json(home, "gc")["sessions"] == 1


async def test_a_session_being_exported_is_not_deleted_until_the_export_ends(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO)
    with home.walrusd():
        session = home.walrusctl("session", "create", "walrus").stdout.strip()
        for number in range(4):
            home.walrusctl("send", session, "-", stdin=f"{number}" * 3_000_000)
        home.walrusctl("session", "close", session)
    backdate_closing(home, int(session))
    with home.walrusd() as daemon:
        async with open_raw_client(daemon.socket) as raw_client:
            await raw_client.send_request("session.export", {"session": int(session)})
            first_piece = await raw_client.receive()
            home.write("walrus.toml", ECHO + "[storage]\nretain_closed_days = 7\n")
            home.walrusctl("reload")
            assert run_json(home, "gc")["sessions"] == 0
            pieces, answer = await raw_client.receive_chunks()
        document = json.loads(first_piece["params"]["data"] + "".join(pieces))
        assert (len(document["events"]), answer["result"]["events"]) == (14, 14)
        assert run_json(home, "gc")["sessions"] == 1


def session_ids_after_start(home: Home) -> list[str]:
    with home.walrusd():
        return session_ids(home)
