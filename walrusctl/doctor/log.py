"""The log itself: does each session have all its events, does what belongs together agree, is there nothing that nobody
owns? What a row says is held against what the others say; whether a body was changed only `walrusctl verify` knows.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

from walrusctl.database import foreign, has_log, is_empty, known_schema, opened
from walrusctl.doctor import questions
from walrusctl.doctor.check import Check
from walrusctl.doctor.pairing import unpaired
from walrusctl.doctor.patient import Patient
from walrusctl.render import count

CHECK_S = 4.0
"""For all of it; a million events take about as long."""
TOLD = 5
"""Findings of a kind; more would say no more."""
_STEPS = 10_000
"""Of SQLite's own machine between two looks at the clock: less than a millisecond's."""
_NOBODYS = "it does no harm, and takes room"
_HINT = "restore walrus.db from a backup; if nobody wrote to it but walrusd, please report it: it is a defect"


def look_at_log(patient: Patient) -> Iterator[Check]:
    path = patient.paths.database
    if not os.path.exists(path):
        return
    had_log, findings = has_log(path), _findings(path)
    if any(finding.status == "broken" for finding in findings) and has_log(path) != had_log:
        findings = _findings(path)  # a walrusd was started or stopped meanwhile, and changed under the reader's eyes
    yield from findings


def _findings(path: str) -> list[Check]:
    """None where there is no log, or one that `database` says is not for us."""
    try:
        with closing(opened(path)) as db:
            [[schema]] = db.execute("PRAGMA user_version")
            if is_empty(db) or foreign(db, path):
                return []
            if schema < known_schema():
                message = f"it is of schema {schema}: the next start of walrusd keeps a copy and brings it up to date"
                return [Check("log", "fine", message)]
            return examined(db, CHECK_S)
    except sqlite3.Error as error:
        return [Check("log", "broken", f"it cannot be looked into: {error}", "see what is said of the database")]


def examined(db: sqlite3.Connection, within_s: float) -> list[Check]:
    """What is wrong, as far as the time allows; or that nothing is. Raises sqlite3.Error."""
    found: list[Check] = []
    looked_at, (sessions, gone, outputs) = 0, db.execute(questions.COUNTS).fetchone()
    end = time.monotonic() + within_s
    db.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
    try:
        db.execute("BEGIN")  # these look at the same moment of a log that may be written meanwhile
        for question in questions.WRONG:
            found += [Check("log", "broken", told, _HINT) for told in _told(db, question)]
        for question in questions.ORPHANS:
            found += [Check("log", "warning", told, _NOBODYS) for told in _told(db, question)]
        db.execute("COMMIT")
        for session, wrong in _sessions(db):
            found += [Check("log", "broken", f"session {session}: {told}", _HINT) for told in wrong[:TOLD]]
            looked_at += 1
            if time.monotonic() > end:
                break
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    waiting = f"; {gone:,} more, and {count(outputs, 'output')}, wait to be thrown away" if gone or outputs else ""
    if looked_at < sessions:
        message = (
            f"{looked_at:,} of {count(sessions, 'session')}, the newest, were looked into in {within_s:g} s{waiting}"
        )
        return [*found, Check("log", "fine", message)]
    message = f"{count(sessions, 'session')}{waiting}; nothing is missing, unpaired or nobody's"
    return found or [Check("log", "fine", message)]


def _told(db: sqlite3.Connection, question: str) -> list[str]:
    return [told for (told,) in db.execute(f"{question} LIMIT {TOLD}")]


def _sessions(db: sqlite3.Connection) -> Iterator[tuple[int, list[str]]]:
    """Each session, the newest first, with what is wrong in its log, each at a moment of its own."""
    session = 2**53
    while True:
        db.execute("BEGIN")
        if not (row := db.execute(questions.NEWEST, (session,)).fetchone()):
            return
        session, in_turn = row
        ended = db.execute(questions.ENDED, (session,)).fetchall()
        wrong = [*_changed_texts(db, session)]
        try:
            wrong += unpaired(db.execute(questions.EVENTS, (session,)), ended, in_turn=bool(in_turn))
        except ValueError as error:
            wrong.append(str(error))
        yield session, wrong
        db.execute("COMMIT")


def _changed_texts(db: sqlite3.Connection, session: int) -> Iterator[str]:
    for seq, digest, text in db.execute(questions.TEXTS, (session,)):
        if hashlib.sha256(text).digest() != digest:
            yield f"the long text of the event at seq {seq} is not the one that walrusd wrote"
