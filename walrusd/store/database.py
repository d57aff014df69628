"""The file of the log: made or found, refused or brought up to date, and its connections.

Everything here blocks, a migration for long: it belongs into a thread.
"""

import errno
import os
from typing import Literal

import apsw

from walrusd.store.log import StorageFailed, StorageFull
from walrusd.store.migrations import MIGRATIONS, migrate, schema_version
from walrusd.store.migrations.m001_log import APPLICATION_ID

Durability = Literal["full", "normal"]

BUSY_MS = 5000
"""Only a foreign process makes us wait: a backup, or a person with a shell."""
WRITER_CACHE_KIB = 4096
READER_CACHE_KIB = 1024


class CannotOpen(StorageFailed):
    """The database cannot be used as it is. What was in it is untouched."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def open_for_writing(path: str, durability: Durability) -> apsw.Connection:
    """The connection of the writer, with today's tables behind it. Raises CannotOpen."""
    _make_private(path)
    try:
        db = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE, statementcachesize=256)
    except apsw.Error as error:
        raise _cannot_open(path, error) from error
    try:
        _prepare(db, path, durability)
    except apsw.Error as error:
        db.close(force=True)
        raise _cannot_open(path, error) from error
    except CannotOpen:
        db.close(force=True)
        raise
    return db


def open_for_reading(path: str) -> apsw.Connection:
    """One more reader, on a database that has a writer. Raises apsw.Error."""
    db = apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(BUSY_MS)
    db.pragma("cache_size", -READER_CACHE_KIB)
    return db


def _make_private(path: str) -> None:
    """An empty file is a new database to SQLite, and its -wal and -shm take their mode from it.

    Closed before SQLite opens it: closing any descriptor of a file drops this process's locks on it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        message = f"cannot open {path}: {error.strerror}"
        raise CannotOpen(message, "Make its folder, and let this user write there.") from error


def _prepare(db: apsw.Connection, path: str, durability: Durability) -> None:
    db.set_busy_timeout(BUSY_MS)
    _refuse_foreign(db, path)
    if db.pragma("journal_mode", "wal") != "wal":
        message = f"{path}: this file system cannot keep a write-ahead log"
        raise CannotOpen(message, "Put the home on a local disk.")
    os.chmod(path, 0o600)
    db.pragma("synchronous", durability)
    db.pragma("cache_size", -WRITER_CACHE_KIB)
    # The writer makes its checkpoints itself, after its outcomes are handed back.
    db.wal_autocheckpoint(0)
    migrate(db)


def _refuse_foreign(db: apsw.Connection, path: str) -> None:
    """Only reads, so that a database which is not ours stays as it is."""
    empty = db.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if empty and schema_version(db) == 0:
        return
    if db.pragma("application_id") != APPLICATION_ID:
        message = f"{path} is a database of another program"
        raise CannotOpen(message, "Move it away; walrusd then starts with an empty log.")
    if schema_version(db) > len(MIGRATIONS):
        message = (
            f"{path} was written by a newer walrusd: its schema is version {schema_version(db)}, "
            f"this walrusd knows {len(MIGRATIONS)}"
        )
        raise CannotOpen(message, "Install that version again, or restore the backup from before it.")


def _cannot_open(path: str, error: apsw.Error) -> CannotOpen:
    match error:
        case apsw.NotADBError():
            return CannotOpen(
                f"{path} is no walrusd database",
                "Restore it from a backup, or move it away; walrusd then starts with an empty log.",
            )
        case apsw.CorruptError():
            return CannotOpen(
                f"{path} is damaged: {error}",
                f"Restore it from a backup, or save what can be read: sqlite3 {path} .recover",
            )
        case apsw.BusyError():
            return CannotOpen(f"{path} is locked by another process", "End that process, then start again.")
        case apsw.CantOpenError() | apsw.ReadOnlyError():
            return CannotOpen(f"cannot write beside {path}: {error}", "Let this user write to the file and its folder.")
        case _:
            return CannotOpen(f"cannot open {path}: {error}", "Look at the disk; then start again.")


def write_failure(db: apsw.Connection, error: Exception) -> StorageFailed:
    """What became of a transaction, in the words of the contract."""
    full = isinstance(error, apsw.FullError) or (
        isinstance(error, apsw.IOError) and db.system_errno in {errno.ENOSPC, errno.EDQUOT}
    )
    kind = StorageFull if full else StorageFailed
    failure = kind(f"cannot write to {db.filename}: {str(error) or type(error).__name__}")
    failure.__cause__ = error
    return failure
