"""Migration 1: tables of the log, of sessions, and of the state that is not in the log yet."""

import apsw

from walrus_protocol.database.schema import APPLICATION_ID

TABLES = """
-- AUTOINCREMENT: an offset is not used again even when the last rows were deleted.
CREATE TABLE event (
    "offset" INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX event_in_session ON event (session, seq);

-- agent, state and in_turn are copies of fields of the outline, for the indexes.
CREATE TABLE session (
    id INTEGER PRIMARY KEY,
    agent TEXT NOT NULL,
    state TEXT NOT NULL,
    in_turn INTEGER NOT NULL,
    outline BLOB NOT NULL
) STRICT;
CREATE INDEX session_by_state ON session (state);
CREATE INDEX session_by_agent ON session (agent, state);
CREATE INDEX session_in_turn ON session (id) WHERE in_turn;

CREATE TABLE inbox (
    session INTEGER NOT NULL,
    place INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (session, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE sent (
    session INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    turn INTEGER,
    PRIMARY KEY (session, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE created_with (
    key TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    session INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE turn (
    session INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER,
    PRIMARY KEY (session, turn)
) STRICT, WITHOUT ROWID;

CREATE TABLE draft (
    session INTEGER PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;

-- session_given: the highest id ever assigned. session_open: the number that are not closed, maintained by the
-- triggers so that no query has to count them.
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counter VALUES ('session_given', 0), ('session_open', 0);

CREATE TRIGGER session_opened AFTER INSERT ON session WHEN new.state <> 'closed' BEGIN
    UPDATE counter SET value = value + 1 WHERE name = 'session_open';
END;
CREATE TRIGGER session_closed AFTER UPDATE OF state ON session
WHEN (new.state = 'closed') <> (old.state = 'closed') BEGIN
    UPDATE counter SET value = value + iif(new.state = 'closed', -1, 1) WHERE name = 'session_open';
END;
"""


def m001_log(db: apsw.Connection) -> None:
    db.pragma("application_id", APPLICATION_ID)
    db.execute(TABLES)
