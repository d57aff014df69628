"""Migration 2: tables of schedules, of the ledger of their ticks, and of outputs too long for the log."""

import apsw

TABLES = """
-- One row for the same bytes, even if several sessions have the output; output_of lists the sessions that may read it.
CREATE TABLE output (
    ref TEXT PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE output_of (
    session INTEGER NOT NULL,
    ref TEXT NOT NULL,
    PRIMARY KEY (session, ref)
) STRICT, WITHOUT ROWID;

-- schedule, running and news are copies of fields of the body, for the indexes.
CREATE TABLE tick (
    tick INTEGER PRIMARY KEY,
    schedule TEXT NOT NULL,
    running INTEGER NOT NULL,
    news INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX tick_of_schedule ON tick (schedule);
CREATE INDEX tick_news ON tick (tick) WHERE news;
CREATE INDEX tick_news_of_schedule ON tick (schedule) WHERE news;
CREATE INDEX tick_running ON tick (tick) WHERE running;

-- The number of ticks of each schedule, maintained by the triggers so that no query has to count them.
CREATE TABLE ledger (
    schedule TEXT PRIMARY KEY,
    ticks INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER tick_written AFTER INSERT ON tick BEGIN
    INSERT INTO ledger VALUES (new.schedule, 1) ON CONFLICT (schedule) DO UPDATE SET ticks = ticks + 1;
END;
CREATE TRIGGER tick_forgotten AFTER DELETE ON tick BEGIN
    UPDATE ledger SET ticks = ticks - 1 WHERE schedule = old.schedule;
END;

CREATE TABLE schedule (
    name TEXT PRIMARY KEY,
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""


def m002_daemon(db: apsw.Connection) -> None:
    db.execute(TABLES)
