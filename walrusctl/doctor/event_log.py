"""The log itself: does each session have all its events, does what belongs together agree, is there nothing that nobody
owns? What a row says is held against what the others say; whether a body was changed only `walrusctl verify` knows.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

from walrusctl.database_reader import describe_incompatibility, has_wal, is_empty, known_schema, open_read_only
from walrusctl.doctor import log_queries
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext
from walrusctl.doctor.event_pairing import find_unpaired
from walrusctl.formatting import format_count

CHECK_TIMEOUT_S = 4.0
"""For all of it; a million events take about as long."""
MAX_FINDINGS = 5
"""Findings of a kind; more would say no more."""
_PROGRESS_STEPS = 10_000
"""Of SQLite's own machine between two looks at the clock: less than a millisecond's."""
_ORPHAN_HINT = "it does no harm, and takes room"
_DEFECT_HINT = "restore walrus.db from a backup; if nobody wrote to it but walrusd, please report it: it is a defect"


def check_event_log(context: DoctorContext) -> Iterator[Check]:
    path = context.paths.database
    if not os.path.exists(path):
        return
    had_log, findings = has_wal(path), _check_database_log(path)
    if any(finding.status == "broken" for finding in findings) and has_wal(path) != had_log:
        findings = _check_database_log(
            path
        )  # a walrusd was started or stopped meanwhile, and changed under the reader's eyes
    yield from findings


def _check_database_log(path: str) -> list[Check]:
    """None where there is no log, or one that `database` says is not for us."""
    try:
        with closing(open_read_only(path)) as db:
            [[schema]] = db.execute("PRAGMA user_version")
            if is_empty(db) or describe_incompatibility(db, path):
                return []
            if schema < known_schema():
                message = f"it is of schema {schema}: the next start of walrusd keeps a copy and brings it up to date"
                return [Check("log", "fine", message)]
            return examine_log(db, CHECK_TIMEOUT_S)
    except sqlite3.Error as error:
        return [Check("log", "broken", f"it cannot be looked into: {error}", "see what is said of the database")]


def examine_log(db: sqlite3.Connection, timeout_s: float) -> list[Check]:
    """What is wrong, as far as the time allows; or that nothing is. Raises sqlite3.Error."""
    found: list[Check] = []
    looked_at, (sessions, gone, outputs) = 0, db.execute(log_queries.COUNTS).fetchone()
    end = time.monotonic() + timeout_s
    db.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)
    try:
        db.execute("BEGIN")  # these look at the same moment of a log that may be written meanwhile
        for question in log_queries.INCONSISTENCIES:
            found += [Check("log", "broken", told, _DEFECT_HINT) for told in _query_findings(db, question)]
        for question in log_queries.ORPHANS:
            found += [Check("log", "warning", told, _ORPHAN_HINT) for told in _query_findings(db, question)]
        db.execute("COMMIT")
        for session, wrong in _check_sessions(db):
            found += [
                Check("log", "broken", f"session {session}: {told}", _DEFECT_HINT) for told in wrong[:MAX_FINDINGS]
            ]
            looked_at += 1
            if time.monotonic() > end:
                break
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    waiting = (
        f"; {gone:,} more, and {format_count(outputs, 'output')}, wait to be thrown away" if gone or outputs else ""
    )
    if looked_at < sessions:
        message = (
            f"{looked_at:,} of {format_count(sessions, 'session')}, the newest, "
            f"were looked into in {timeout_s:g} s{waiting}"
        )
        return [*found, Check("log", "fine", message)]
    message = f"{format_count(sessions, 'session')}{waiting}; nothing is missing, unpaired or nobody's"
    return found or [Check("log", "fine", message)]


def _query_findings(db: sqlite3.Connection, query: str) -> list[str]:
    return [told for (told,) in db.execute(f"{query} LIMIT {MAX_FINDINGS}")]


def _check_sessions(db: sqlite3.Connection) -> Iterator[tuple[int, list[str]]]:
    """Each session, the newest first, with what is wrong in its log, each at a moment of its own."""
    session = 2**53
    while True:
        db.execute("BEGIN")
        if not (row := db.execute(log_queries.NEWEST_SESSION, (session,)).fetchone()):
            return
        session, in_turn = row
        ended = db.execute(log_queries.ENDED_TURNS, (session,)).fetchall()
        wrong = [*_find_changed_texts(db, session)]
        try:
            wrong += find_unpaired(db.execute(log_queries.EVENTS, (session,)), ended, in_turn=bool(in_turn))
        except ValueError as error:
            wrong.append(str(error))
        yield session, wrong
        db.execute("COMMIT")


def _find_changed_texts(db: sqlite3.Connection, session: int) -> Iterator[str]:
    for seq, digest, text in db.execute(log_queries.TEXTS, (session,)):
        if hashlib.sha256(text).digest() != digest:
            yield f"the long text of the event at seq {seq} is not the one that walrusd wrote"
