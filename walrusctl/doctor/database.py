"""Doctor check of the database file: readable, intact, of a known schema, and how large?

The file is opened for reading only, whether walrusd runs or not, and no file is created.
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
"""Seconds for reading the whole database; enough for some gigabytes on an idle disk."""
LARGE_WAL_BYTES = 64 * 1024 * 1024
"""Bytes of the write-ahead log above which a reader must be blocking it; walrusd keeps it far smaller."""
_PROGRESS_STEPS = 10_000
"""Instructions of SQLite's virtual machine between two checks of the time: less than a millisecond."""
_RESTORE_HINT = "restore it from a backup, or save the readable part: sqlite3 {} .recover"


def check_database(context: DoctorContext) -> Iterator[Check]:
    path = context.paths.database
    if not os.path.exists(path):
        if context.daemon:
            hint = "stop walrusd and restore the file from a backup: its present writes are lost when it ends"
            yield Check("database", "error", f"{path} was deleted while walrusd uses it", hint)
        else:
            yield _report_new_database(context, "is missing", "none yet: the first start creates it")
        return
    had_wal, finding = has_wal(path), _check_file(context)
    if finding.status == "error" and has_wal(path) != had_wal:
        # walrusd was started or stopped meanwhile, and the file changed during the check.
        finding = _check_file(context)
    yield finding
    yield from _check_wal(path)


def newest_event_time(path: str) -> float | None:
    """Returns the unix time of the last event; None if there is none or it cannot be read."""
    try:
        with closing(open_read_only(path)) as db:
            row = db.execute('SELECT body FROM event ORDER BY "offset" DESC LIMIT 1').fetchone()
            return float(json.loads(row[0])["ts"]) if row else None
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None


def _report_new_database(context: DoctorContext, problem: str, unused_message: str) -> Check:
    """Reports that the next start creates a new log; `unused_message` is for a home that never had one."""
    path = context.paths.database
    if os.path.exists(context.paths.lock) or glob(f"{escape(path)}.v*.backup*"):
        message = f"{path} {problem}, although this home was in use: the next start creates a new, empty log"
        return Check("database", "warning", message, "if you did not remove it, restore it from a backup")
    return Check("database", "ok", unused_message)


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
        if problem := describe_incompatibility(db, path):
            return Check("database", "error", *problem)
        if is_empty(db):
            hint = "restore it from a backup, or move it away; walrusd then starts with an empty log"
            return Check("database", "error", f"{path} has lost its tables", hint)
        end = time.monotonic() + CHECK_TIMEOUT_S
        db.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)
        wal_bytes = os.stat(f"{path}-wal").st_size if has_wal(path) else 0
        sizes = f"{format_bytes(os.stat(path).st_size)}, write-ahead log {format_bytes(wal_bytes)}"
        try:
            [[result]] = db.execute("PRAGMA quick_check(1)")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            return Check(
                "database", "ok", f"{sizes}, schema {schema}; intact as far as was read in {CHECK_TIMEOUT_S:g} s"
            )
    if result != "ok":
        return Check("database", "error", f"{path} is damaged: {result.splitlines()[-1]}", _RESTORE_HINT.format(path))
    return Check("database", "ok", f"{sizes}, schema {schema}, intact")


def _describe_read_error(path: str, error: sqlite3.Error) -> Check:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            hint = "restore it from a backup, or move it away; walrusd then starts with an empty log"
            return Check("database", "error", f"{path} is not a database", hint)
        case sqlite3.SQLITE_CORRUPT:
            return Check("database", "error", f"{path} is damaged: {error}", _RESTORE_HINT.format(path))
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY:
            return Check("database", "error", f"this user cannot read {path}: {error}", "run doctor as its owner")
        case sqlite3.SQLITE_BUSY:
            return Check(
                "database",
                "warning",
                f"{path} is locked by another process",
                "run doctor again when that process has ended",
            )
        case _:
            return Check(
                "database", "error", f"{path} cannot be read: {error}", "check with `dmesg` whether the disk fails"
            )


def _check_wal(path: str) -> Iterator[Check]:
    wal_bytes = os.stat(f"{path}-wal").st_size if has_wal(path) else 0
    if wal_bytes > LARGE_WAL_BYTES:
        hint = "a process that reads for long, such as a backup, blocks it: end that process, or restart walrusd"
        yield Check("database", "warning", f"its write-ahead log has {format_bytes(wal_bytes)}", hint)
