"""Doctor check of the event log: complete sessions, consistent tables, no orphaned rows.

Rows are compared with each other. Only `walrusctl verify` detects a changed event body.
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
"""Seconds for the whole check; a million events take about as long."""
MAX_FINDINGS = 5
"""Maximum findings of a query or session; more would add no information."""
_PROGRESS_STEPS = 10_000
"""Instructions of SQLite's virtual machine between two checks of the time: less than a millisecond."""
_ORPHAN_HINT = "this is harmless, but takes space"
_DEFECT_HINT = "restore walrus.db from a backup; if only walrusd has written to it, please report this defect"


def check_event_log(context: DoctorContext) -> Iterator[Check]:
    path = context.paths.database
    if not os.path.exists(path):
        return
    had_wal, findings = has_wal(path), _check_database_log(path)
    if any(finding.status == "error" for finding in findings) and has_wal(path) != had_wal:
        # walrusd was started or stopped meanwhile, and the file changed during the check.
        findings = _check_database_log(path)
    yield from findings


def _check_database_log(path: str) -> list[Check]:
    """Checks the log; returns no findings if the check `database` reports that it is empty or unknown."""
    try:
        with closing(open_read_only(path)) as db:
            [[schema]] = db.execute("PRAGMA user_version")
            if is_empty(db) or describe_incompatibility(db, path):
                return []
            if schema < known_schema():
                message = f"it has schema {schema}: the next start of walrusd makes a backup and upgrades it"
                return [Check("log", "ok", message)]
            return examine_log(db, CHECK_TIMEOUT_S)
    except sqlite3.Error as error:
        return [Check("log", "error", f"it cannot be read: {error}", "see the finding `database`")]


def examine_log(db: sqlite3.Connection, timeout_s: float) -> list[Check]:
    """Returns all problems found within the time limit, or one ok finding. Raises sqlite3.Error."""
    found: list[Check] = []
    checked, (sessions, deleted, outputs) = 0, db.execute(log_queries.COUNTS).fetchone()
    end = time.monotonic() + timeout_s
    db.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)
    try:
        db.execute("BEGIN")  # all queries see the same snapshot of a log that may be written meanwhile
        for query in log_queries.INCONSISTENCIES:
            found += [Check("log", "error", message, _DEFECT_HINT) for message in _query_findings(db, query)]
        for query in log_queries.ORPHANS:
            found += [Check("log", "warning", message, _ORPHAN_HINT) for message in _query_findings(db, query)]
        db.execute("COMMIT")
        for session, problems in _check_sessions(db):
            found += [
                Check("log", "error", f"session {session}: {problem}", _DEFECT_HINT)
                for problem in problems[:MAX_FINDINGS]
            ]
            checked += 1
            if time.monotonic() > end:
                break
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    pending = (
        f"; {format_count(deleted, 'deleted session')} and {format_count(outputs, 'output')} wait for removal"
        if deleted or outputs
        else ""
    )
    if checked < sessions:
        message = (
            f"the newest {checked:,} of {format_count(sessions, 'session')} were checked in {timeout_s:g} s{pending}"
        )
        return [*found, Check("log", "ok", message)]
    message = f"{format_count(sessions, 'session')}{pending}; nothing is missing, unpaired or orphaned"
    return found or [Check("log", "ok", message)]


def _query_findings(db: sqlite3.Connection, query: str) -> list[str]:
    return [message for (message,) in db.execute(f"{query} LIMIT {MAX_FINDINGS}")]


def _check_sessions(db: sqlite3.Connection) -> Iterator[tuple[int, list[str]]]:
    """Yields each session and its problems, the newest first, each read in a snapshot of its own."""
    session = 2**53
    while True:
        db.execute("BEGIN")
        if not (row := db.execute(log_queries.NEWEST_SESSION, (session,)).fetchone()):
            return
        session, in_turn = row
        ended = db.execute(log_queries.ENDED_TURNS, (session,)).fetchall()
        problems = [*_find_changed_texts(db, session)]
        try:
            problems += find_unpaired(db.execute(log_queries.EVENTS, (session,)), ended, in_turn=bool(in_turn))
        except ValueError as error:
            problems.append(str(error))
        yield session, problems
        db.execute("COMMIT")


def _find_changed_texts(db: sqlite3.Connection, session: int) -> Iterator[str]:
    for seq, digest, text in db.execute(log_queries.TEXTS, (session,)):
        if hashlib.sha256(text).digest() != digest:
            yield f"the long text of the event at seq {seq} was changed after walrusd wrote it"
