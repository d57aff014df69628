"""Tests of walrusctl doctor: the event log check finds missing, unpaired and orphaned rows."""

import shutil
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.home import ROOT, Home
from tests.walrusctl.doctor_findings import doctor_findings
from walrus_protocol.client import Client
from walrus_protocol.database.reader import DatabaseReader
from walrusctl.doctor.event_log import examine_log
from walrusctl.doctor.event_pairing import find_unpaired

TOUR = ROOT / "docs" / "tour"
LONG = "very long " * 1000


@pytest.fixture(scope="module")
def populated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with four sessions.

    Session 1 has three turns, one of them with a call; session 3 is its fork before the third turn. Session 2 has a
    stored output, and session 4 a long message.
    """
    home = Home(tmp_path_factory.mktemp("populated") / "home")
    shutil.copytree(TOUR, home.path, dirs_exist_ok=True)
    home.write("walrus.toml", (TOUR / "walrus.toml").read_text() + "[daemon]\nshutdown_grace_s = 0.1\n")
    with home.walrusd():
        for words in (
            ("session", "create", "librarian"),
            ("send", "1", "Hello!"),
            ("send", "1", "What is on the list?"),
            ("run", "librarian", "Hello!"),
            ("session", "fork", "1"),
            ("send", "1", "Hello!"),
            ("session", "create", "librarian"),
        ):
            assert home.walrusctl(*words).returncode == 0, words
        home.walrusctl("send", "4", LONG)
    with closing(sqlite3.connect(home.path / "walrus.db")) as db, db:
        db.execute("INSERT INTO output VALUES ('r1', CAST('whole' AS BLOB))")
        db.execute("INSERT INTO output_of VALUES (2, 'r1')")
    return home.path


@pytest.fixture
def home(populated_home: Path, tmp_path: Path) -> Path:
    shutil.copytree(populated_home, tmp_path / "home")
    return tmp_path / "home"


def log_findings(home: Path) -> list[tuple[str, str]]:
    return [(status, message) for status, message, _ in doctor_findings(home)["log"]]


def findings_after(home: Path, *statements: str) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(home / "walrus.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    return log_findings(home)


HEALTHY = [("ok", "4 sessions; nothing is missing, unpaired or orphaned")]


def test_a_log_that_walrusd_wrote_has_no_problems(home: Path) -> None:
    assert log_findings(home) == HEALTHY


def test_deleted_data_that_waits_for_removal_is_ok_and_reported(home: Path) -> None:
    delete = "DELETE FROM {} WHERE session = 2".format
    assert findings_after(
        home,
        "DELETE FROM session WHERE id = 2",
        "UPDATE counter SET value = 3 WHERE name = 'session_open'",
        *map(delete, ("turn", "inbox", "draft", "sent", "created_with", "output_of")),
        "INSERT INTO remains VALUES (2)",
    ) == [
        ("ok", "3 sessions; 1 deleted session and 1 output wait for removal; nothing is missing, unpaired or orphaned")
    ]


def first_offset_sql(kind: str) -> str:
    """Returns SQL for the offset of session 1's first event of a kind."""
    start = f'{{"type":"{kind}"'
    return f"""(SELECT "offset" FROM event
        WHERE session = 1 AND substr(body, 1, {len(start)}) = CAST('{start}' AS BLOB) ORDER BY seq LIMIT 1)"""


TOOL_RESULT, DONE = first_offset_sql("tool_result"), first_offset_sql("done")
DAMAGES = {
    "an event is missing": (
        ["DELETE FROM event WHERE session = 1 AND seq = 3"],
        [
            ("error", "session 1 has 14 events, from seq 1 to 15: some are missing"),
            ("error", "session 3 is a fork of session 1 at seq 12, but 1 events before that are missing"),
            ("warning", "1 entries of the search index belong to no event"),
        ],
    ),
    "the first event is missing": (
        ["DELETE FROM event WHERE session = 3 AND seq = 1"],
        [("error", "session 3 ends with seq 0, but its state records 1")],
    ),
    "the last event is missing": (
        ["DELETE FROM event WHERE session = 3"],
        [("error", "session 3 ends with seq 0, but its state records 1")],
    ),
    "the session state is another one": (
        ["UPDATE session SET state = 'processing', in_turn = 1 WHERE id = 3"],
        [("error", "session 3 is listed as processing, in a turn, but its state records idle")],
    ),
    "a turn is not listed": (
        ["DELETE FROM turn WHERE session = 1 AND turn = 3"],
        [
            ("error", "session 1 has had 3 turns, but 2 are listed"),
            ("error", "session 1: turn 3 ends at seq 15, but is recorded as open or not at all"),
        ],
    ),
    "the counters are behind": (
        [
            "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'event'",
            "UPDATE counter SET value = 9 WHERE name = 'session_open'",
        ],
        [
            ("error", "the log has assigned offsets up to 3, but its last event has 25"),
            ("error", "3 sessions are open, but 9 are counted"),
        ],
    ),
    "a long text is missing": (
        ["DELETE FROM text"],
        [("error", "session 4 has 1 events whose long text is missing, the first at seq 2")],
    ),
    "an output is missing": (
        ["DELETE FROM output"],
        [("error", "session 2 has the output r1, which is missing")],
    ),
    "rows of no session": (
        [
            "INSERT INTO event (session, seq, body) VALUES (9, 1, CAST('{}' AS BLOB))",
            "INSERT INTO turn VALUES (9, 1, 1, 1)",
            "INSERT INTO inbox VALUES (9, 1, 'message', CAST('{}' AS BLOB))",
            "INSERT INTO draft VALUES (9, CAST('{}' AS BLOB))",
            "INSERT INTO sent VALUES (9, 'k', CAST('d' AS BLOB), 1)",
            "INSERT INTO created_with VALUES ('k', CAST('d' AS BLOB), 9)",
            "INSERT INTO output_of VALUES (9, 'r1')",
            "INSERT INTO fork VALUES (9, 1, 3)",
        ],
        [
            *(
                ("warning", f"1 rows of {table} are of session 9, which does not exist")
                for table in ("inbox", "draft", "created_with", "turn", "sent", "output_of", "event")
            ),
            ("warning", "session 9, which does not exist, is recorded as a fork of session 1"),
        ],
    ),
    "a long text and an index entry belong to no event": (
        [
            "INSERT INTO text VALUES (CAST('d' AS BLOB), CAST('long' AS BLOB))",
            "INSERT INTO said_docsize (id, sz) VALUES (99, CAST('' AS BLOB))",
        ],
        [
            ("warning", "1 long texts belong to no event"),
            ("warning", "1 entries of the search index belong to no event"),
        ],
    ),
    "a call has no result": (
        [f'UPDATE event SET body = CAST(\'{{"type":"turn_resumed"}}\' AS BLOB) WHERE "offset" = {TOOL_RESULT}'],
        [("error", "session 1: the call call_3_0 has no result before seq 11")],
    ),
    "a result is of another call": (
        [
            f"""UPDATE event SET body = CAST(replace(body, 'call_3_0', 'call_9_9') AS BLOB)
            WHERE "offset" = {TOOL_RESULT}"""
        ],
        [
            (
                "error",
                "session 1: the result at seq 9 is for call call_9_9, which already had one or was never requested",
            ),
            ("error", "session 1: the call call_3_0 has no result before seq 11"),
        ],
    ),
    "a turn ends twice": (
        [f'UPDATE event SET body = CAST(replace(body, \'"turn":1\', \'"turn":2\') AS BLOB) WHERE "offset" = {DONE}'],
        [
            ("error", "session 1: turn 2 ends twice, at seq 4 and seq 12"),
            ("error", "session 1: turn 1 is recorded as ending at seq 4, but does not"),
            ("error", "session 1: turn 2 is recorded as ending at seq 12, but does not"),
        ],
    ),
    "an event is not JSON": (
        [f'UPDATE event SET body = CAST(substr(body, 1, 40) AS BLOB) WHERE "offset" = {DONE}'],
        [("error", "session 1: the event at seq 4 is not JSON")],
    ),
    "an event lacks required fields": (
        [f'UPDATE event SET body = CAST(\'{{"type":"done","ts":1}}\' AS BLOB) WHERE "offset" = {DONE}'],
        [("error", "session 1: the event at seq 4 is not one that walrusd writes")],
    ),
    "the turn of an event is no integer": (
        [f'UPDATE event SET body = CAST(\'{{"type":"done","turn":1e400}}\' AS BLOB) WHERE "offset" = {DONE}'],
        [("error", "session 1: the event at seq 4 is not one that walrusd writes")],
    ),
    "an event is nested too deeply": (
        [
            (
                """UPDATE event SET body = CAST('{"type":"done","turn":' || replace(hex(zeroblob(50000)), '0', '[') """
                f'AS BLOB) WHERE "offset" = {DONE}'
            )
        ],
        [("error", "session 1: the event at seq 4 is not one that walrusd writes")],
    ),
    "the calls of an event have the wrong type": (
        [f'UPDATE event SET body = CAST(\'{{"type":"assistant_message","calls":5}}\' AS BLOB) WHERE "offset" = {DONE}'],
        [("error", "session 1: the event at seq 4 is not one that walrusd writes")],
    ),
    "a message is not JSON": (
        ["UPDATE event SET body = x'ff00' WHERE session = 1 AND seq = 2"],
        [("error", "session 1: the event at seq 2 is not one that walrusd writes")],
    ),
    "a started call is not JSON": (
        [
            (
                "UPDATE event SET body = CAST(substr(body, 1, 40) AS BLOB) "
                f'WHERE "offset" = {first_offset_sql("tool_started")}'
            )
        ],
        [("error", "session 1: the event at seq 8 is not one that walrusd writes")],
    ),
    "a message is JSON but not an event": (
        ["UPDATE event SET body = CAST('{\"a\":1}' AS BLOB) WHERE session = 1 AND seq = 2"],
        [("error", "session 1: the event at seq 2 is not one that walrusd writes")],
    ),
    "a long text was changed": (
        ["UPDATE text SET body = CAST('short' AS BLOB)"],
        [("error", "session 4: the long text of the event at seq 2 was changed after walrusd wrote it")],
    ),
    "a session state is not JSON": (
        ["UPDATE session SET outline = CAST('{' AS BLOB) WHERE id = 1"],
        [("error", "session 1: its recorded state is not JSON")],
    ),
}


@pytest.mark.parametrize(("statements", "expected"), DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_reported(home: Path, statements: list[str], expected: list[tuple[str, str]]) -> None:
    assert findings_after(home, *statements) == expected


def test_a_log_of_an_older_walrusd_is_left_to_the_upgrade_at_the_next_start(home: Path) -> None:
    assert findings_after(home, "PRAGMA user_version = 3") == [
        ("ok", "it has schema 3: the next start of walrusd makes a backup and upgrades it")
    ]


def test_at_its_deadline_the_check_reports_how_far_it_came(home: Path) -> None:
    with DatabaseReader(str(home / "walrus.db")) as db:
        [finding] = examine_log(db, 0.0)
    assert finding == ("ok", "the newest 1 of 4 sessions were checked in 0 s", "")


def test_while_turns_run_there_are_no_errors(home: Path) -> None:
    running = Home(home, (home / "walrus.toml").read_text())
    with running.walrusd() as walrusd:
        command = running.command_line("send", "1", "A story")
        with (
            subprocess.Popen(command, env=running.environ(), cwd=ROOT, stderr=subprocess.DEVNULL) as send,
            ThreadPoolExecutor() as pool,
        ):
            assert running.walrusctl("session", "wait", "1", "--state", "processing").returncode == 0
            turns = pool.submit(run_turns, walrusd.socket)
            while not turns.done():
                assert {status for status, _ in log_findings(home)} == {"ok"}
            turns.result()
            send.terminate()


def run_turns(socket: Path) -> None:
    with Client(str(socket), 30) as client:
        for _ in range(20):
            client.call("agent.run", {"agent": "librarian", "content": "What is on the list?"})


def test_an_open_turn_may_have_open_calls() -> None:
    requested = b'{"type":"assistant_message","calls":[{"id":"a"},{"id":"b"}]}'
    answered = b'{"type":"tool_result","call_id":"a"}'
    assert list(find_unpaired([(2, requested), (3, answered)], [], in_turn=True)) == []
    assert list(find_unpaired([(2, requested), (3, answered)], [], in_turn=False)) == [
        "the call b has no result at its end"
    ]
