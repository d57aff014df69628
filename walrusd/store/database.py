"""The file of the log: made or found, refused or brought up to date, and its connections.

Everything here blocks, a migration for long: it belongs into a thread.
"""

import os
from contextlib import suppress
from shutil import disk_usage
from typing import Literal

import apsw
import structlog

from walrusd.store.backup import backup_before_upgrade
from walrusd.store.errors import NO_SPACE_ERRNOS, DatabaseUnusable, open_error
from walrusd.store.hash_chain import set_chain_enabled
from walrusd.store.migrations import MIGRATIONS, migrate, schema_version
from walrusd.store.migrations.m001_log import APPLICATION_ID

log = structlog.get_logger("walrusd")

Durability = Literal["full", "normal"]

BUSY_TIMEOUT_MS = 5000
"""Only a foreign process makes us wait: a backup, or a person with a shell."""
WRITER_CACHE_KIB = 4096
WAL_SIZE_LIMIT_BYTES = 8 * 1024 * 1024
"""Of the write-ahead log while nothing hinders it: twice what it has before a checkpoint."""
READER_CACHE_KIB = 1024
MAX_VACUUM_BYTES = 8 * 1024 * 1024 * 1024
"""Bytes of an old database that are written anew at its first start, which takes minutes on a slow disk. A start that
took longer than who waits for it has patience would begin it again and again."""
AUTO_VACUUM_INCREMENTAL = 2
"""As SQLite numbers it: free pages are given back when it is asked for."""


def open_for_writing(path: str, durability: Durability, *, chain: bool = False) -> apsw.Connection:
    """The connection of the writer, with today's tables behind it, the chain switched. Raises CannotOpen."""
    _create_private_file(path)
    try:
        db = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE, statementcachesize=256)
    except apsw.Error as error:
        raise open_error(path, error) from error
    try:
        _prepare(db, path, durability)
        set_chain_enabled(db, enabled=chain)
    except (apsw.Error, OSError) as error:
        refused = open_error(path, error, db.system_errno)
        close_quietly(db)
        raise refused from error
    except DatabaseUnusable:
        close_quietly(db)
        raise
    return db


def is_empty(path: str) -> bool:
    """Whether it is not there, or without a byte: opening it for writing makes a new log then."""
    try:
        return os.stat(path).st_size == 0
    except FileNotFoundError:
        return True
    except OSError:
        return False  # opening it says what is wrong


def open_for_reading(path: str) -> apsw.Connection:
    """One more reader, on a database that has a writer. Raises apsw.Error."""
    db = apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    db.pragma("cache_size", -READER_CACHE_KIB)
    return db


def close_quietly(db: apsw.Connection) -> None:
    """Close it on a disk that may fail: nothing is lost by that, for what is in the write-ahead log counts."""
    with suppress(apsw.Error):
        db.close(force=True)


def _create_private_file(path: str) -> None:
    """An empty file is a new database to SQLite, and its -wal and -shm take their mode from it.

    Closed before SQLite opens it: closing any descriptor of a file drops this process's locks on it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise open_error(path, error) from error


def _prepare(db: apsw.Connection, path: str, durability: Durability) -> None:
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    _reject_foreign_database(db, path)
    if not schema_version(db):
        db.pragma("auto_vacuum", "incremental")  # before the first table: later it takes a VACUUM
    if db.pragma("journal_mode", "wal") != "wal":
        message = f"{path}: this file system cannot keep a write-ahead log"
        raise DatabaseUnusable(message, "Put the home on a local disk.")
    os.chmod(path, 0o600)
    db.pragma("synchronous", durability)
    db.pragma("cache_size", -WRITER_CACHE_KIB)
    # The writer makes its checkpoints itself, after its outcomes are handed back.
    db.wal_autocheckpoint(0)
    # What one large write or a long reader has made of it is given back when it starts over.
    db.pragma("journal_size_limit", WAL_SIZE_LIMIT_BYTES)
    version = schema_version(db)
    copy = backup_before_upgrade(db, version) if 0 < version < len(MIGRATIONS) else None
    migrate(db)
    if copy:
        log.info("database upgraded", schema_before=version, schema=len(MIGRATIONS), copy=copy)
    _enable_incremental_vacuum(db, path)


def _enable_incremental_vacuum(db: apsw.Connection, path: str) -> None:
    """Have an old database know its pages, so that free ones can be given back. It is written anew for that, once.

    Where there is no room for that it goes on as it is, and the next start tries again; a very large one stays so.
    """
    folder, size = os.path.dirname(path), os.path.getsize(path)
    if (
        db.pragma("auto_vacuum") == AUTO_VACUUM_INCREMENTAL
        or size > MAX_VACUUM_BYTES
        or disk_usage(folder).free < 3 * size
    ):
        return
    db.pragma("auto_vacuum", "incremental")
    db.pragma("temp_store_directory", folder)  # elsewhere there may be no room: /tmp is often a piece of the memory
    try:
        db.execute("VACUUM")
    except apsw.Error as error:
        if not (isinstance(error, apsw.FullError) or db.system_errno in NO_SPACE_ERRNOS):
            raise
    finally:
        db.pragma("temp_store_directory", "")
    # All of it stands in the write-ahead log. Who reads meanwhile is passed over: the first write tries again.
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _reject_foreign_database(db: apsw.Connection, path: str) -> None:
    """Only reads, so that a database which is not ours stays as it is."""
    empty = db.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if empty and schema_version(db) == 0:
        return
    if db.pragma("application_id") != APPLICATION_ID:
        message = f"{path} is a database of another program"
        raise DatabaseUnusable(message, "Move it away; walrusd then starts with an empty log.", transient=False)
    if empty:
        message = f"{path} has lost its tables: it is marked as walrusd's, with schema {schema_version(db)}, and empty"
        hint = "Restore it from a backup, or move it away; walrusd then starts with an empty log."
        raise DatabaseUnusable(message, hint, transient=False)
    if schema_version(db) > len(MIGRATIONS):
        message = (
            f"{path} was written by a newer walrusd: its schema is version {schema_version(db)}, "
            f"this walrusd knows {len(MIGRATIONS)}"
        )
        hint = "Install that version again, or restore the backup from before it."
        raise DatabaseUnusable(message, hint, transient=False)
