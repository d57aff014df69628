"""Tests of walrusctl verify: changes to the log are found and located; an untouched log is intact."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from tests.fakes.stores import SqliteDisk, commit, write
from tests.fakes.walrusctl_runner import WalrusctlRunner
from walrus_protocol.database.hash_chain import INITIAL_LINK, ChainHead, compute_link, hash_body
from walrus_protocol.events import UserMessage, encode
from walrusd.session.session_state import SessionState

SESSIONS, ROUNDS = 3, 6
LAST_OFFSET = SESSIONS * ROUNDS
LONG_TEXT = "very long " * 1000
DatabaseEdit = Callable[[sqlite3.Connection], object]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions with six interleaved events each: (session, seq) is at offset 3 * seq + session - 3.

    Each message of session 2 is a long text.
    """
    folder = tmp_path_factory.mktemp("log")
    trio.run(_write_sessions, SqliteDisk(folder, chain=True))
    return folder / "walrus.db"


async def _write_sessions(disk: SqliteDisk) -> None:
    log = await disk.open()
    for seq in range(1, ROUNDS + 1):
        for session in range(1, SESSIONS + 1):
            content = f"{session} says {seq}{LONG_TEXT if session == 2 else ''}"
            body = encode(UserMessage(content=content, session=session, ts=seq))
            row = SessionState(id=session, state="idle", agent="a", last_seq=seq)
            await commit(log, write(session=session, session_state=row, bodies=[body], first_seq=seq))
    await log.aclose()


@pytest.fixture
def terminal(tmp_path: Path, database: Path) -> WalrusctlRunner:
    shutil.copy(database, tmp_path)
    return WalrusctlRunner(tmp_path)


def edit_database(terminal: WalrusctlRunner, edit: DatabaseEdit | str) -> None:
    with closing(sqlite3.connect(terminal.home / "walrus.db")) as db:
        if isinstance(edit, str):
            db.executescript(edit)
        else:
            edit(db)
            db.commit()


def tampered_place(terminal: WalrusctlRunner, *words: str) -> tuple[int | None, int | None, int | None]:
    """Returns offset, session and seq of the tampering; checks that the text output names them too."""
    result = terminal.run("verify", "--json", *words)
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    found = answer["tampered"]
    assert (answer["whole"], answer["head"]) == (False, None)
    as_text = terminal.run("verify", *words)
    assert (as_text.exit_code, as_text.stdout) == (1, "")
    assert "the log was tampered with" in as_text.stderr
    assert all(f"{name} {found[name]}" in as_text.stderr for name in ("offset", "session", "seq") if found[name])
    assert found["what"].split()[0] in as_text.stderr
    return found["offset"], found["session"], found["seq"]


def verified_head(terminal: WalrusctlRunner) -> str:
    result = terminal.run("verify")
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def test_an_untouched_log_is_intact_and_its_head_is_printed(terminal: WalrusctlRunner) -> None:
    result = terminal.run("verify")
    assert (result.exit_code, result.stderr) == (0, "18 events are as they were written\n")
    head = result.stdout.strip()
    assert head.startswith("18:")
    assert terminal.json_lines("verify") == [
        {
            "whole": True,
            "head": head,
            "events": LAST_OFFSET,
            "thrown_away": 0,
            "stretches": [{"first": 1, "last": LAST_OFFSET, "goes_on": True}],
            "tampered": None,
        }
    ]
    assert sorted(path.name for path in terminal.home.iterdir()) == ["walrus.db"]


DATABASE_EDITS: dict[str, tuple[DatabaseEdit | str, tuple[int | None, int | None, int | None]]] = {
    "a body was changed": (
        "UPDATE event SET body = CAST(replace(body, 'says', 'sayz') AS BLOB) WHERE offset = 7",
        (7, 1, 3),
    ),
    "a long text was changed": (
        """UPDATE text SET body = CAST(replace(body, 'very', 'just') AS BLOB)
        WHERE digest = (SELECT text FROM event WHERE offset = 8)""",
        (8, 2, 3),
    ),
    "a long text was taken for another": (
        "UPDATE event SET text = (SELECT text FROM event WHERE offset = 11) WHERE offset = 8",
        (8, 2, 3),
    ),
    "a long text is missing": (
        "DELETE FROM text WHERE digest = (SELECT text FROM event WHERE offset = 8)",
        (8, 2, 3),
    ),
    "an event in the middle is missing": ("DELETE FROM event WHERE offset = 9", (9, 3, 3)),
    "an event and its link are missing": (
        "DELETE FROM event WHERE offset = 9; DELETE FROM link WHERE offset = 9",
        (9, 3, 3),
    ),
    "the first event of a session is missing": ("DELETE FROM event WHERE offset = 2", (2, 2, 1)),
    "the last event is missing": ("DELETE FROM event WHERE offset = 18", (18, 3, 6)),
    "the last events and their links are missing": (
        "DELETE FROM event WHERE offset > 15; DELETE FROM link WHERE offset > 15",
        (16, None, None),
    ),
    "the last events are missing and the last offset was set back": (
        """DELETE FROM event WHERE offset > 16; DELETE FROM link WHERE offset > 16;
        UPDATE sqlite_sequence SET seq = 16 WHERE name = 'event'""",
        (None, 2, 6),
    ),
    "the last offset was overwritten with a text": (
        "UPDATE sqlite_sequence SET seq = 'abc' WHERE name = 'event'",
        (1, None, None),
    ),
    "two bodies were swapped": (
        """CREATE TEMP TABLE two AS SELECT offset, body FROM event WHERE offset IN (7, 10);
        UPDATE event SET body = (SELECT body FROM two WHERE offset = 17 - event.offset) WHERE offset IN (7, 10)""",
        (7, 1, 3),
    ),
    "two offsets were swapped": (
        """UPDATE event SET offset = -7 WHERE offset = 7; UPDATE event SET offset = 7 WHERE offset = 10;
        UPDATE event SET offset = 10 WHERE offset = -7""",
        (7, 1, 4),
    ),
    "an event was inserted at the end": (
        "INSERT INTO event (session, seq, body) VALUES (3, 7, CAST('{}' AS BLOB))",
        (19, 3, 7),
    ),
    "an event was inserted after the recorded end": (
        """INSERT INTO event (session, seq, body) VALUES (3, 7, CAST('{}' AS BLOB));
        UPDATE sqlite_sequence SET seq = 18 WHERE name = 'event'""",
        (19, 3, 7),
    ),
    "an event was inserted before the beginning": (
        "INSERT INTO event (offset, session, seq, body) VALUES (0, 3, 7, CAST('{}' AS BLOB))",
        (0, 3, 7),
    ),
    "an event was inserted before the beginning and is counted": (
        """INSERT INTO event (offset, session, seq, body) VALUES (0, 3, 7, CAST('{}' AS BLOB));
        UPDATE session SET outline = CAST(replace(outline, '"last_seq":6', '"last_seq":7') AS BLOB) WHERE id = 3""",
        (0, 3, 7),
    ),
    "an event was replaced by another": (
        "UPDATE event SET session = 9, seq = 1, body = CAST('{}' AS BLOB) WHERE offset = 9",
        (9, 9, 1),
    ),
    "a link is missing": ("DELETE FROM link WHERE offset = 9", (9, 3, 3)),
    "the first link is missing": ("DELETE FROM link WHERE offset = 1", (1, 1, 1)),
    "the last link is missing": ("DELETE FROM link WHERE offset = 18", (18, 3, 6)),
    "all links are missing": ("DELETE FROM link", (1, 1, 1)),
    "a link was changed": ("UPDATE link SET link = zeroblob(32) WHERE offset = 9", (9, 3, 3)),
    "a link was inserted": ("INSERT INTO link (offset, link) VALUES (19, zeroblob(32))", (19, None, None)),
    "a session and its events are missing": (
        "DELETE FROM event WHERE session = 2; DELETE FROM session WHERE id = 2",
        (2, None, None),
    ),
    "a session, its events and its links are missing": (
        """DELETE FROM link WHERE offset IN (SELECT offset FROM event WHERE session = 2);
        DELETE FROM event WHERE session = 2; DELETE FROM session WHERE id = 2""",
        (2, None, None),
    ),
    "the seq of an event was changed": ("UPDATE event SET seq = 7 WHERE offset = 16", (16, 1, 7)),
    "the session of an event was changed": ("UPDATE event SET session = 9 WHERE offset = 9", (9, 9, 3)),
    "the state of a session was set back": (
        "UPDATE session SET outline = CAST(replace(outline, '\"last_seq\":6', '\"last_seq\":5') AS BLOB) WHERE id = 1",
        (None, 1, 6),
    ),
    "the state of a session is not JSON": (
        "UPDATE session SET outline = CAST('{' AS BLOB) WHERE id = 1",
        (None, 1, 1),
    ),
    "an event has an impossible session": ("UPDATE event SET session = -1 WHERE offset = 9", (9, -1, 3)),
    "the recorded start of the chain is later": (
        "UPDATE counter SET name = 'chain 5' WHERE name = 'chain 1'",
        (1, None, None),
    ),
    "the chain is recorded as ended": ("UPDATE counter SET value = 12 WHERE name = 'chain 1'", (13, None, None)),
    "the recorded end of the chain is after the log": (
        "UPDATE counter SET value = 99 WHERE name = 'chain 1'",
        (1, None, None),
    ),
    "the chain is recorded as begun twice": ("INSERT INTO counter VALUES ('chain 9', 0)", (1, None, None)),
}


@pytest.mark.parametrize(("edit", "place"), DATABASE_EDITS.values(), ids=DATABASE_EDITS)
def test_tampering_is_found_and_located(
    terminal: WalrusctlRunner, edit: DatabaseEdit | str, place: tuple[int | None, int | None, int | None]
) -> None:
    edit_database(terminal, edit)
    assert tampered_place(terminal) == place


def delete_session(db: sqlite3.Connection, session: int) -> None:
    """Deletes a session like walrusd, but without the event sessions_expired."""
    rows = db.execute(
        """SELECT offset, seq, substr(event.body, 1, ifnull(at, 0)) || ifnull(text.body, '')
        || substr(event.body, ifnull(at, 0) + 1)
        FROM event LEFT JOIN text ON event.text = digest WHERE session = ?""",
        [session],
    ).fetchall()
    for offset, seq, body in rows:
        values = (session, seq, hash_body(body.encode()), offset)
        db.execute("UPDATE link SET session = ?, seq = ?, digest = ? WHERE offset = ?", values)
    db.execute("DELETE FROM event WHERE session = ?", [session])
    db.execute("DELETE FROM session WHERE id = ?", [session])


def rebuild_links(db: sqlite3.Connection) -> None:
    """Rebuilds all links and counters from the events, as anybody who can write the database could."""
    db.execute("DELETE FROM link")
    before, last = INITIAL_LINK, 0
    rows = db.execute(
        """SELECT offset, session, seq, substr(event.body, 1, ifnull(at, 0)) || ifnull(text.body, '')
        || substr(event.body, ifnull(at, 0) + 1)
        FROM event LEFT JOIN text ON event.text = digest ORDER BY offset"""
    ).fetchall()
    for last, session, seq, body in rows:
        before = compute_link(before, last, session, seq, hash_body(body.encode()))
        db.execute("INSERT INTO link (offset, link) VALUES (?, ?)", (last, before))
    db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'event'", [last])
    for session, outline in db.execute("SELECT id, outline FROM session").fetchall():
        [[seq]] = db.execute("SELECT max(seq) FROM event WHERE session = ?", [session])
        state = json.dumps({**json.loads(outline), "last_seq": seq}).encode()
        db.execute("UPDATE session SET outline = ? WHERE id = ?", (state, session))


def test_a_consistently_truncated_log_is_detected_only_by_an_earlier_head(
    terminal: WalrusctlRunner,
) -> None:
    head = verified_head(terminal)
    edit_database(terminal, "DELETE FROM event WHERE offset > 12")
    edit_database(terminal, rebuild_links)
    assert verified_head(terminal).startswith("12:")
    assert tampered_place(terminal, "--since", head) == (18, None, None)


def test_a_rebuilt_log_is_detected_only_by_an_earlier_head(terminal: WalrusctlRunner) -> None:
    head = verified_head(terminal)
    edit_database(terminal, "UPDATE event SET body = CAST(replace(body, 'says', 'sayz') AS BLOB) WHERE offset = 7")
    edit_database(terminal, rebuild_links)
    assert verified_head(terminal) != head
    assert tampered_place(terminal, "--since", head) == (18, 3, 6)


def test_every_earlier_head_is_in_the_chain(terminal: WalrusctlRunner, database: Path) -> None:
    with closing(sqlite3.connect(database)) as db:
        heads = [ChainHead(0, INITIAL_LINK), *(ChainHead(*row) for row in db.execute("SELECT offset, link FROM link"))]
    assert len(heads) == LAST_OFFSET + 1
    for head in heads:
        result = terminal.run("verify", "--since", str(head))
        assert (result.exit_code, result.stdout.strip()) == (0, str(heads[-1]))


def test_an_unknown_head_is_tampering_and_an_invalid_one_a_usage_error(terminal: WalrusctlRunner) -> None:
    assert tampered_place(terminal, "--since", f"99:{'0' * 64}") == (99, None, None)
    result = terminal.run("verify", "--since", "yesterday")
    assert (result.exit_code, "OFFSET:HEX" in result.stderr) == (2, True)


def test_a_deleted_session_is_tampering_unless_an_event_records_it(terminal: WalrusctlRunner) -> None:
    head = verified_head(terminal)
    edit_database(terminal, lambda db: delete_session(db, 2))
    assert tampered_place(terminal) == (2, 2, 1)
    trio.run(_write_expired_event, SqliteDisk(terminal.home, chain=True), [2])
    result = terminal.run("verify", "--since", head)
    assert (result.exit_code, result.stderr) == (0, "19 events are as they were written, 6 of them deleted since\n")
    edit_database(terminal, "UPDATE link SET seq = 7 WHERE offset = 8")
    assert tampered_place(terminal) == (8, 2, 7)
    edit_database(terminal, "UPDATE link SET seq = 3 WHERE offset = 8")
    edit_database(terminal, "INSERT INTO event (offset, session, seq, body) VALUES (8, 2, 3, CAST('{}' AS BLOB))")
    assert tampered_place(terminal) == (8, 2, 3)


@pytest.mark.parametrize("offset", [0, -5])
def test_an_event_outside_the_chain_justifies_no_deletion(terminal: WalrusctlRunner, offset: int) -> None:
    edit_database(terminal, lambda db: delete_session(db, 2))
    expired_event = "json_object('type', 'sessions_expired', 'sessions', json_array(2))"
    edit_database(
        terminal, f"INSERT INTO event (offset, session, seq, body) SELECT {offset}, 0, 1, CAST({expired_event} AS BLOB)"
    )
    assert tampered_place(terminal) == (offset, 0, 1)


def test_an_event_justifies_no_deletion_of_later_events(tmp_path: Path) -> None:
    """Anything may be written while the chain is off, so such an event cannot justify later deletions."""
    trio.run(_write_expired_event, SqliteDisk(tmp_path), [2])
    trio.run(_write_sessions, SqliteDisk(tmp_path, chain=True))
    terminal = WalrusctlRunner(tmp_path)
    edit_database(terminal, lambda db: delete_session(db, 2))
    assert tampered_place(terminal) == (3, 2, 1)


async def _write_expired_event(disk: SqliteDisk, sessions: list[int]) -> None:
    log = await disk.open()
    body = json.dumps({"type": "sessions_expired", "ts": 1.0, "sessions": sessions}, separators=(",", ":")).encode()
    await commit(log, write(session=0, bodies=[body], first_seq=1))
    await log.aclose()


def test_a_missing_chain_or_database_is_reported(terminal: WalrusctlRunner, tmp_path: Path) -> None:
    empty = WalrusctlRunner(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    assert empty.run("verify").exit_code == 3
    trio.run(_write_sessions, SqliteDisk(tmp_path / "empty"))
    result = empty.run("verify", "--json")
    assert (result.exit_code, json.loads(result.stdout)["whole"]) == (2, None)
    result = empty.run("verify")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "[storage] chain = true" in result.stderr
    assert tampered_place(empty, "--since", f"3:{'0' * 64}") == (3, 3, 1)
    edit_database(terminal, "PRAGMA user_version = 99")
    result = terminal.run("verify")
    assert (result.exit_code, "newer walrusd" in result.stderr) == (1, True)
    (tmp_path / "walrus.db").write_text("this is not SQLite " * 100)
    result = terminal.run("verify", "--json")
    assert (result.exit_code, "is not a database" in json.loads(result.stdout)["error"]["message"]) == (1, True)
