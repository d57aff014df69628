"""Migration 4: tables for deduplicated texts, forks, sessions to be swept, and the hash chain."""

import apsw

TABLES = """
-- Each long text is stored once, even if several events contain it. `text` of an event is the digest of the text
-- that was removed from its body, `at` is the text's position in the body.
CREATE TABLE text (
    digest BLOB PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
ALTER TABLE event ADD COLUMN text BLOB;
ALTER TABLE event ADD COLUMN at INTEGER;
CREATE INDEX event_with_text ON event (text) WHERE text IS NOT NULL;
CREATE TRIGGER text_left AFTER DELETE ON event WHEN old.text IS NOT NULL BEGIN
    DELETE FROM text WHERE digest = old.text AND NOT EXISTS (SELECT 1 FROM event WHERE text = old.text);
END;

-- The parent of each fork, and the last seq of the parent that the fork inherits.
CREATE TABLE fork (
    child INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    seq INTEGER NOT NULL
) STRICT;
CREATE INDEX fork_of ON fork (parent);

-- The time when the session was closed.
ALTER TABLE session ADD COLUMN closed_at REAL;
CREATE INDEX session_closed_at ON session (closed_at) WHERE closed_at IS NOT NULL;

CREATE TRIGGER session_gone AFTER DELETE ON session WHEN old.state <> 'closed' BEGIN
    UPDATE counter SET value = value - 1 WHERE name = 'session_open';
END;

-- Indexes to find the rows that a deleted session leaves.
CREATE INDEX output_of_ref ON output_of (ref);
CREATE INDEX created_with_session ON created_with (session);

-- Sessions with rows in `event` but no row in `session`: deleted, or not imported completely yet. Their events are read
-- only through forks, or will be swept.
CREATE TABLE remains (session INTEGER PRIMARY KEY) STRICT;

-- The hash chain, if it is enabled: one row for each event from then on. session, seq and digest (of the whole
-- body) are set when the event itself is deleted.
CREATE TABLE link (
    "offset" INTEGER PRIMARY KEY,
    link BLOB NOT NULL,
    session INTEGER,
    seq INTEGER,
    digest BLOB
) STRICT;
"""
FILL_FORKS = """
INSERT INTO fork (child, parent, seq)
SELECT id, json_extract(outline, '$.parent.session'), json_extract(outline, '$.parent.seq')
FROM (SELECT id, CAST(outline AS TEXT) AS outline FROM session)
WHERE json_extract(outline, '$.parent.session') IS NOT NULL
"""
FILL_CLOSED_AT = """
UPDATE session SET closed_at = ifnull(json_extract(CAST(outline AS TEXT), '$.updated_at'), 0.0) WHERE state = 'closed'
"""


def m004_space(db: apsw.Connection) -> None:
    db.execute(TABLES)
    db.execute(FILL_FORKS)
    db.execute(FILL_CLOSED_AT)
