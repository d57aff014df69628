"""Doctor check of the database file: readable, intact, of a known schema, and how large?

The file is opened for reading only, whether walrusd runs or not, and no file is created.
"""

import os
import time
from collections.abc import Iterator
from glob import escape, glob

from walrus_protocol.database.reader import DatabaseReader, DatabaseUnreadable, has_wal, read_stable
from walrusctl.doctor.check import Finding, has_error
from walrusctl.doctor.context import DoctorContext
from walrusctl.formatting import format_bytes

CHECK_TIMEOUT_S = 4.0
"""Seconds for reading the whole database; enough for some gigabytes on an idle disk."""
LARGE_WAL_BYTES = 64 * 1024 * 1024
"""Bytes of the write-ahead log above which a reader must be blocking it; walrusd keeps it far smaller."""
_RESTORE_HINT = "restore it from a backup, or save the readable part: sqlite3 {} .recover"


def check_database(context: DoctorContext) -> Iterator[Finding]:
    path = context.paths.database
    if not os.path.exists(path):
        if context.daemon:
            hint = "stop walrusd and restore the file from a backup: its present writes are lost when it ends"
            yield Finding("error", f"{path} was deleted while walrusd uses it", hint)
        else:
            yield _report_new_database(context, "is missing", "none yet: the first start creates it")
        return
    try:
        yield from read_stable(path, lambda db: [_check_contents(context, db)], is_fault=has_error)
    except DatabaseUnreadable as error:
        yield _describe_read_error(path, error)
    wal_bytes = _wal_bytes(path)
    if wal_bytes > LARGE_WAL_BYTES:
        hint = "a process that reads for long, such as a backup, blocks it: end that process, or restart walrusd"
        yield Finding("warning", f"its write-ahead log has {format_bytes(wal_bytes)}", hint)


def _report_new_database(context: DoctorContext, problem: str, unused_message: str) -> Finding:
    """Reports that the next start creates a new log; `unused_message` is for a home that never had one."""
    path = context.paths.database
    if os.path.exists(context.paths.lock) or glob(f"{escape(path)}.v*.backup*"):
        message = f"{path} {problem}, although this home was in use: the next start creates a new, empty log"
        return Finding("warning", message, "if you did not remove it, restore it from a backup")
    return Finding("ok", unused_message)


def _check_contents(context: DoctorContext, db: DatabaseReader) -> Finding:
    path, schema = context.paths.database, db.schema_version
    if db.is_empty and not schema:
        return _report_new_database(context, "is empty", f"{path} is empty: the first start fills it")
    if problem := db.incompatibility():
        return Finding("error", *problem)
    if db.is_empty:
        hint = "restore it from a backup, or move it away; walrusd then starts with an empty log"
        return Finding("error", f"{path} has lost its tables", hint)
    size = f"{format_bytes(os.stat(path).st_size)}, write-ahead log {format_bytes(_wal_bytes(path))}, schema {schema}"
    db.set_deadline(time.monotonic() + CHECK_TIMEOUT_S)
    try:
        damage = db.find_damage()
    except TimeoutError:
        return Finding("ok", f"{size}; intact as far as was read in {CHECK_TIMEOUT_S:g} s")
    if damage:
        return Finding("error", f"{path} is damaged: {damage}", _RESTORE_HINT.format(path))
    return Finding("ok", f"{size}, intact")


def _describe_read_error(path: str, error: DatabaseUnreadable) -> Finding:
    match error.fault:
        case "not_a_database":
            hint = "restore it from a backup, or move it away; walrusd then starts with an empty log"
            return Finding("error", f"{path} is not a database", hint)
        case "damaged":
            return Finding("error", f"{path} is damaged: {error}", _RESTORE_HINT.format(path))
        case "no_access":
            return Finding("error", f"this user cannot read {path}: {error}", "run doctor as its owner")
        case "locked":
            hint = "run doctor again when that process has ended"
            return Finding("warning", f"{path} is locked by another process", hint)
        case "other":
            hint = "check with `dmesg` whether the disk fails"
            return Finding("error", f"{path} cannot be read: {error}", hint)


def _wal_bytes(path: str) -> int:
    return os.stat(f"{path}-wal").st_size if has_wal(path) else 0
