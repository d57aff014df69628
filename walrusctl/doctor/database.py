"""The log on disk: may it be read, is it whole, is it of a version that this installation knows, how large is it?

It is opened for reading only, beside a running daemon or without one, and nothing is left behind.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from glob import escape, glob

from walrusctl.database_reader import describe_incompatibility, has_wal, is_empty, open_read_only
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext
from walrusctl.formatting import format_bytes

CHECK_TIMEOUT_S = 4.0
"""For reading the database through: some gigabytes from a disk that is not busy."""
LARGE_WAL_BYTES = 64 * 1024 * 1024
"""walrusd keeps its write-ahead log far smaller; one that grows is held by a reader."""
_PROGRESS_STEPS = 10_000
"""Of SQLite's own machine between two looks at the clock: less than a millisecond's."""
_RESTORE_HINT = "restore it from a backup, or save what can be read: sqlite3 {} .recover"


def check_database(context: DoctorContext) -> Iterator[Check]:
    path = context.paths.database
    if not os.path.exists(path):
        if context.daemon:
            hint = "stop walrusd and restore the file from a backup: what it writes now is lost when it ends"
            yield Check("database", "broken", f"{path} is gone, and walrusd runs on it", hint)
        else:
            yield _report_new_database(context, "is gone", "none yet: the first start makes it")
        return
    had_log, finding = has_wal(path), _check_file(context)
    if finding.status == "broken" and has_wal(path) != had_log:
        finding = _check_file(
            context
        )  # a walrusd was started or stopped meanwhile, and changed under the reader's eyes
    yield finding
    yield from _check_wal(path)


def newest_event_time(path: str) -> float | None:
    """When the last event was written, unix time; None where that cannot be read."""
    try:
        with closing(open_read_only(path)) as db:
            row = db.execute('SELECT body FROM event ORDER BY "offset" DESC LIMIT 1').fetchone()
            return float(json.loads(row[0])["ts"]) if row else None
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None


def _report_new_database(context: DoctorContext, problem: str, unused_message: str) -> Check:
    """What there is to say where the next start makes a new log; `unused`: in a home where none has been yet."""
    path = context.paths.database
    if os.path.exists(context.paths.lock) or glob(f"{escape(path)}.v*.backup*"):
        message = f"{path} {problem}, though this home was in use: the next start makes a new, empty log"
        return Check("database", "warning", message, "restore it from a backup, if it was not you who took it away")
    return Check("database", "fine", unused_message)


def _check_file(context: DoctorContext) -> Check:
    try:
        return _check_contents(context)
    except sqlite3.Error as error:
        return _describe_read_error(context.paths.database, error)


def _check_contents(context: DoctorContext) -> Check:
    path = context.paths.database
    with closing(open_read_only(path)) as db:
        [[schema]] = db.execute("PRAGMA user_version")
        if is_empty(db) and not schema:
            return _report_new_database(context, "is empty", f"{path} is empty: the first start fills it")
        if refused := describe_incompatibility(db, path):
            return Check("database", "broken", *refused)
        if is_empty(db):
            hint = "restore it from a backup, or move it away: walrusd then starts with an empty log"
            return Check("database", "broken", f"{path} has lost its tables", hint)
        end = time.monotonic() + CHECK_TIMEOUT_S
        db.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)
        log = os.stat(f"{path}-wal").st_size if has_wal(path) else 0
        takes = f"{format_bytes(os.stat(path).st_size)}, write-ahead log {format_bytes(log)}"
        try:
            [[found]] = db.execute("PRAGMA quick_check(1)")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            return Check(
                "database", "fine", f"{takes}, schema {schema}; sound as far as {CHECK_TIMEOUT_S:g} s of reading went"
            )
    if found != "ok":
        return Check("database", "broken", f"{path} is damaged: {found.splitlines()[-1]}", _RESTORE_HINT.format(path))
    return Check("database", "fine", f"{takes}, schema {schema}, sound")


def _describe_read_error(path: str, error: sqlite3.Error) -> Check:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            hint = "restore it from a backup, or move it away: walrusd then starts with an empty log"
            return Check("database", "broken", f"{path} is no database", hint)
        case sqlite3.SQLITE_CORRUPT:
            return Check("database", "broken", f"{path} is damaged: {error}", _RESTORE_HINT.format(path))
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY:
            return Check("database", "broken", f"{path} may not be read by this user: {error}", "ask as its owner")
        case sqlite3.SQLITE_BUSY:
            return Check("database", "warning", f"{path} is locked by another process", "look again when it has ended")
        case _:
            return Check("database", "broken", f"{path} cannot be read: {error}", "`dmesg` says whether the disk fails")


def _check_wal(path: str) -> Iterator[Check]:
    log = os.stat(f"{path}-wal").st_size if has_wal(path) else 0
    if log > LARGE_WAL_BYTES:
        hint = "a backup or a shell that reads for long holds it: end that; restarting walrusd makes it small again"
        yield Check("database", "warning", f"its write-ahead log has {format_bytes(log)}", hint)
