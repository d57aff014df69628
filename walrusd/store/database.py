"""The file of the log: made or found, refused or brought up to date, and its connections.

Everything here blocks, a migration for long: it belongs into a thread.
"""

import os
from contextlib import suppress
from shutil import disk_usage
from typing import Literal

import apsw

from walrusd.store.backup import keep_copy
from walrusd.store.chain import switch
from walrusd.store.migrations import MIGRATIONS, migrate, schema_version
from walrusd.store.migrations.m001_log import APPLICATION_ID
from walrusd.store.refusals import NO_SPACE, CannotOpen, refusal

Durability = Literal["full", "normal"]

BUSY_MS = 5000
"""Only a foreign process makes us wait: a backup, or a person with a shell."""
WRITER_CACHE_KIB = 4096
WAL_BYTES = 8 * 1024 * 1024
"""Of the write-ahead log while nothing hinders it: twice what it has before a checkpoint."""
READER_CACHE_KIB = 1024
INCREMENTAL = 2
"""As SQLite numbers it: free pages are given back when it is asked for."""


def open_for_writing(path: str, durability: Durability, *, chain: bool = False) -> apsw.Connection:
    """The connection of the writer, with today's tables behind it, the chain switched. Raises CannotOpen."""
    _make_private(path)
    try:
        db = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE, statementcachesize=256)
    except apsw.Error as error:
        raise refusal(path, error) from error
    try:
        _prepare(db, path, durability)
        switch(db, on=chain)
    except (apsw.Error, OSError) as error:
        refused = refusal(path, error, db.system_errno)
        let_go(db)
        raise refused from error
    except CannotOpen:
        let_go(db)
        raise
    return db


def open_for_reading(path: str) -> apsw.Connection:
    """One more reader, on a database that has a writer. Raises apsw.Error."""
    db = apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(BUSY_MS)
    db.pragma("cache_size", -READER_CACHE_KIB)
    return db


def let_go(db: apsw.Connection) -> None:
    """Close it on a disk that may fail: nothing is lost by that, for what is in the write-ahead log counts."""
    with suppress(apsw.Error):
        db.close(force=True)


def _make_private(path: str) -> None:
    """An empty file is a new database to SQLite, and its -wal and -shm take their mode from it.

    Closed before SQLite opens it: closing any descriptor of a file drops this process's locks on it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise refusal(path, error) from error


def _prepare(db: apsw.Connection, path: str, durability: Durability) -> None:
    db.set_busy_timeout(BUSY_MS)
    _refuse_foreign(db, path)
    if not schema_version(db):
        db.pragma("auto_vacuum", "incremental")  # before the first table: later it takes a VACUUM
    if db.pragma("journal_mode", "wal") != "wal":
        message = f"{path}: this file system cannot keep a write-ahead log"
        raise CannotOpen(message, "Put the home on a local disk.")
    os.chmod(path, 0o600)
    db.pragma("synchronous", durability)
    db.pragma("cache_size", -WRITER_CACHE_KIB)
    # The writer makes its checkpoints itself, after its outcomes are handed back.
    db.wal_autocheckpoint(0)
    # What one large write or a long reader has made of it is given back when it starts over.
    db.pragma("journal_size_limit", WAL_BYTES)
    version = schema_version(db)
    if 0 < version < len(MIGRATIONS):
        keep_copy(db, version)
    migrate(db)
    _make_shrinkable(db, path)


def _make_shrinkable(db: apsw.Connection, path: str) -> None:
    """Have an old database know its pages, so that free ones can be given back. It is written anew for that, once.

    Where there is no room for that it goes on as it is, and the next start tries again.
    """
    if db.pragma("auto_vacuum") == INCREMENTAL or disk_usage(os.path.dirname(path)).free < 3 * os.path.getsize(path):
        return
    db.pragma("auto_vacuum", "incremental")
    try:
        db.execute("VACUUM")
    except apsw.Error as error:
        if not (isinstance(error, apsw.FullError) or db.system_errno in NO_SPACE):
            raise


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
