"""The log on disk: may it be read, is it whole, is it of a version that this installation knows, how large is it?

It is opened for reading only, beside a running daemon or without one, and nothing is left behind.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

from walrusctl.database import foreign, has_log, is_empty, opened
from walrusctl.doctor.check import Check
from walrusctl.doctor.patient import Patient

CHECK_S = 4.0
"""For reading the database through: some gigabytes from a disk that is not busy."""
LARGE_WAL = 64 * 1024 * 1024
"""walrusd keeps its write-ahead log far smaller; one that grows is held by a reader."""
_STEPS = 10_000
"""Of SQLite's own machine between two looks at the clock: less than a millisecond's."""
_RESTORE = "restore it from a backup, or save what can be read: sqlite3 {} .recover"


def look_at_database(patient: Patient) -> Iterator[Check]:
    path = patient.paths.database
    if not os.path.exists(path):
        if patient.daemon:
            hint = "stop walrusd and restore the file from a backup: what it writes now is lost when it ends"
            yield Check("database", "broken", f"{path} is gone, and walrusd runs on it", hint)
        else:
            yield Check("database", "fine", "none yet: the first start makes it")
        return
    had_log, finding = has_log(path), _finding(path)
    if finding.status == "broken" and has_log(path) != had_log:
        finding = _finding(path)  # a walrusd was started or stopped meanwhile, and changed under the reader's eyes
    yield finding
    yield from _wal(path)


def newest_event(path: str) -> float | None:
    """When the last event was written, unix time; None where that cannot be read."""
    try:
        with closing(opened(path)) as db:
            row = db.execute('SELECT body FROM event ORDER BY "offset" DESC LIMIT 1').fetchone()
            return float(json.loads(row[0])["ts"]) if row else None
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None


def _finding(path: str) -> Check:
    try:
        return _read(path)
    except sqlite3.Error as error:
        return _unreadable(path, error)


def _read(path: str) -> Check:
    with closing(opened(path)) as db:
        if is_empty(db):
            return Check("database", "fine", f"{path} is empty: the first start fills it")
        if refused := foreign(db, path):
            return Check("database", "broken", *refused)
        [[schema]] = db.execute("PRAGMA user_version")
        end = time.monotonic() + CHECK_S
        db.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        log = os.stat(f"{path}-wal").st_size if has_log(path) else 0
        size = f"{os.stat(path).st_size / 1e6:,.1f} MB, write-ahead log {log / 1e6:,.1f} MB"
        try:
            [[found]] = db.execute("PRAGMA quick_check(1)")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            return Check("database", "fine", f"{size}, schema {schema}; sound as far as {CHECK_S:g} s of reading went")
    if found != "ok":
        return Check("database", "broken", f"{path} is damaged: {found.splitlines()[-1]}", _RESTORE.format(path))
    return Check("database", "fine", f"{size}, schema {schema}, sound")


def _unreadable(path: str, error: sqlite3.Error) -> Check:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            hint = "restore it from a backup, or move it away: walrusd then starts with an empty log"
            return Check("database", "broken", f"{path} is no database", hint)
        case sqlite3.SQLITE_CORRUPT:
            return Check("database", "broken", f"{path} is damaged: {error}", _RESTORE.format(path))
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY:
            return Check("database", "broken", f"{path} may not be read by this user: {error}", "ask as its owner")
        case sqlite3.SQLITE_BUSY:
            return Check("database", "warning", f"{path} is locked by another process", "look again when it has ended")
        case _:
            return Check("database", "broken", f"{path} cannot be read: {error}", "`dmesg` says whether the disk fails")


def _wal(path: str) -> Iterator[Check]:
    size = os.stat(f"{path}-wal").st_size if has_log(path) else 0
    if size > LARGE_WAL:
        hint = "a backup or a shell that reads for long holds it: end that; restarting walrusd makes it small again"
        yield Check("database", "warning", f"its write-ahead log has {size / 1e6:,.0f} MB", hint)
