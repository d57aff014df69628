"""Finds contradictions between the tables of the event log, and rows without an owner.

Rows are compared with each other: only the hash chain detects a changed event body.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from walrus_protocol.database.reader import DatabaseReader
from walrus_protocol.database.schema import DAEMON_SESSION, TABLES

MAX_PROBLEMS = 5
"""Maximum problems of a query; more would add no information."""

_WITH_STATE = """
WITH recorded AS (
    SELECT id, state, in_turn, ifnull(json_extract(row, '$.last_seq'), 0) AS last_seq,
        ifnull(json_extract(row, '$.turns'), 0) AS turns, ifnull(json_extract(row, '$.state'), '') AS recorded_state,
        json_type(row, '$.turn') IS NOT NULL AS recorded_turn
    FROM (SELECT id, state, in_turn, CAST(outline AS TEXT) AS row FROM session) WHERE json_valid(row)
)
"""
_MISSING_EVENTS = """
SELECT 'session ' || session || ' has ' || count(*) || ' events, from seq ' || min(seq) || ' to ' || max(seq)
    || ': some are missing'
FROM event WHERE session IN (SELECT id FROM session) GROUP BY session HAVING count(*) <> max(seq) OR min(seq) <> 1
"""
_UNREADABLE_STATE = """
SELECT 'session ' || id || ': its recorded state is not JSON' FROM session WHERE NOT json_valid(CAST(outline AS TEXT))
"""
_WRONG_LAST_SEQ = f"""{_WITH_STATE}
SELECT 'session ' || id || ' ends with seq ' || last || ', but its state records ' || last_seq
FROM (SELECT *, ifnull((SELECT max(seq) FROM event WHERE session = id), 0) AS last FROM recorded)
WHERE last <> last_seq
"""  # noqa: S608 - only our own constants are inserted
_WRONG_STATE = f"""{_WITH_STATE}
SELECT 'session ' || id || ' is listed as ' || state || iif(in_turn, ', in a turn', '') || ', but its state records '
    || recorded_state || iif(recorded_turn, ', in a turn', '')
FROM recorded WHERE state <> recorded_state OR in_turn <> recorded_turn
"""  # noqa: S608 - as above
_WRONG_TURN_COUNT = f"""{_WITH_STATE}
SELECT 'session ' || id || ' has had ' || turns || ' turns, but ' || listed || ' are listed'
FROM (SELECT *, (SELECT count(*) FROM turn WHERE session = id) AS listed FROM recorded)
WHERE turns <> listed
"""  # noqa: S608 - as above
_MISSING_INHERITED_EVENTS = """
SELECT 'session ' || child || ' is a fork of session ' || parent || ' at seq ' || seq || ', but ' || (seq - present)
    || ' events before that are missing'
FROM (
    SELECT *, (SELECT count(*) FROM event WHERE session = parent AND event.seq <= fork.seq) AS present
    FROM fork WHERE child IN (SELECT id FROM session)
) WHERE present < seq
"""
_WRONG_LAST_OFFSET = """
SELECT 'the log has assigned offsets up to ' || assigned || ', but its last event has ' || last
FROM (
    SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0) AS assigned,
        (SELECT ifnull(max("offset"), 0) FROM event) AS last
) WHERE last > assigned
"""
_WRONG_OPEN_COUNT = """
SELECT open || ' sessions are open, but ' || counted || ' are counted'
FROM (
    SELECT (SELECT count(*) FROM session WHERE state <> 'closed') AS open,
        (SELECT value FROM counter WHERE name = 'session_open') AS counted
) WHERE open IS NOT counted
"""
_MISSING_TEXTS = """
SELECT 'session ' || session || ' has ' || count(*) || ' events whose long text is missing, the first at seq '
    || min(seq)
FROM event WHERE text IS NOT NULL AND NOT EXISTS (SELECT 1 FROM text WHERE digest = event.text) GROUP BY session
"""
_MISSING_OUTPUTS = """
SELECT 'session ' || session || ' has the output ' || ref || ', which is missing'
FROM output_of WHERE NOT EXISTS (SELECT 1 FROM output WHERE output.ref = output_of.ref)
"""
INCONSISTENCIES = (
    _MISSING_EVENTS,
    _UNREADABLE_STATE,
    _WRONG_LAST_SEQ,
    _WRONG_STATE,
    _WRONG_TURN_COUNT,
    _MISSING_INHERITED_EVENTS,
    _WRONG_LAST_OFFSET,
    _WRONG_OPEN_COUNT,
    _MISSING_TEXTS,
    _MISSING_OUTPUTS,
)
"""Queries for contradictions between tables, which must not occur."""

_NOT_OF_SESSION = "session NOT IN (SELECT id FROM session)"
_NOT_OF_UNLISTED_SESSION = f"{_NOT_OF_SESSION} AND session NOT IN (SELECT session FROM remains)"  # noqa: S608 - as above
_ORPHAN_CONDITIONS = {
    **dict.fromkeys(("inbox", "draft", "created_with"), _NOT_OF_SESSION),  # an import writes these with the session
    "event": f"{_NOT_OF_UNLISTED_SESSION} AND session <> {DAEMON_SESSION}",
}
"""The conditions for an orphan in tables with sessions; in the others it is `_NOT_OF_UNLISTED_SESSION`."""
ORPHANS = (
    *(
        f"""SELECT count(*) || ' rows of {table} are of session ' || session || ', which does not exist'
        FROM {table} WHERE {_ORPHAN_CONDITIONS.get(table, _NOT_OF_UNLISTED_SESSION)} GROUP BY session"""  # noqa: S608 - as above
        for table, columns in TABLES.items()
        if "session" in columns and table not in ("link", "remains")
    ),
    """SELECT 'session ' || child || ', which does not exist, is recorded as a fork of session ' || parent
    FROM fork WHERE child NOT IN (SELECT id FROM session) AND child NOT IN (SELECT session FROM remains)""",
    """SELECT orphans || ' long texts belong to no event' FROM (
        SELECT count(*) AS orphans FROM text WHERE NOT EXISTS (SELECT 1 FROM event WHERE event.text = text.digest)
    ) WHERE orphans""",
    """SELECT orphans || ' entries of the search index belong to no event' FROM (
        SELECT count(*) AS orphans FROM said_docsize WHERE id NOT IN (SELECT "offset" FROM event)
    ) WHERE orphans""",
)
"""Queries for rows without an owner; they are harmless, but take space."""

_COUNTS = """
SELECT (SELECT count(*) FROM session),
    (SELECT count(*) FROM remains WHERE session NOT IN (SELECT parent FROM fork)),
    (SELECT count(*) FROM output WHERE ref NOT IN (SELECT ref FROM output_of))
"""
_NEWEST_SESSION = "SELECT id, in_turn FROM session WHERE id < ? ORDER BY id DESC LIMIT 1"
_EVENTS = """
SELECT seq, body FROM (SELECT seq, body, CAST(body AS TEXT) AS json FROM event WHERE session = ?)
WHERE json GLOB '{"type":"assistant_message",*' OR json GLOB '{"type":"tool_result",*' OR json GLOB '{"type":"done",*'
    OR iif(json_valid(json), json_type(json, '$.type'), '') IS NOT 'text'
ORDER BY seq
"""
"""The events of a session that come in pairs, and rows that are not events.

An event whose long text is stored in another table is still JSON without that text.
"""
_TEXTS = "SELECT seq, digest, text.body FROM event JOIN text ON digest = event.text WHERE session = ? ORDER BY seq"
_ENDED_TURNS = "SELECT turn, last_seq FROM turn WHERE session = ? AND last_seq IS NOT NULL"


class SessionRows(NamedTuple):
    """The rows of a session that are compared with each other; valid until the next session is read."""

    session: int
    in_turn: bool
    changed_texts: list[int]
    """The seqs of events whose long text was changed."""
    events: Iterator[tuple[int, bytes]]
    """Seq and body of the events that come in pairs, and of rows that are not events."""
    ended_turns: list[tuple[int, int]]
    """Turn and last seq."""


def count_log(db: DatabaseReader) -> tuple[int, int, int]:
    """Returns the numbers of sessions, and of deleted sessions and outputs that wait for removal."""
    [(sessions, deleted, outputs)] = db.rows(_COUNTS)
    return sessions, deleted, outputs


def find_problems(db: DatabaseReader, queries: tuple[str, ...]) -> Iterator[str]:
    """Yields the messages of INCONSISTENCIES or ORPHANS."""
    for query in queries:
        for (message,) in db.rows(f"{query} LIMIT {MAX_PROBLEMS}"):
            yield message


def read_sessions(db: DatabaseReader) -> Iterator[SessionRows]:
    """Yields the sessions, the newest first, each in a snapshot of its own."""
    session = 2**53
    while True:
        with db.snapshot():
            if not (newest := db.row(_NEWEST_SESSION, session)):
                return
            session, in_turn = newest
            changed = [seq for seq, digest, text in db.rows(_TEXTS, session) if hashlib.sha256(text).digest() != digest]
            ended: list[tuple[int, int]] = [*db.rows(_ENDED_TURNS, session)]
            yield SessionRows(session, bool(in_turn), changed, db.rows(_EVENTS, session), ended)
