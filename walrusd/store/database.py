"""Opens the database file: creates, checks and migrates it, and makes its connections.

Everything here blocks, and a migration takes long: call it in a thread.
"""

import os
from contextlib import suppress
from shutil import disk_usage
from typing import Literal

import apsw
import structlog

from walrus_protocol.database.schema import APPLICATION_ID
from walrusd.store.backup import backup_before_upgrade
from walrusd.store.errors import NO_SPACE_ERRNOS, DatabaseUnusable, open_error
from walrusd.store.hash_chain import set_chain_enabled
from walrusd.store.migrations import MIGRATIONS, migrate, schema_version

log = structlog.get_logger("walrusd")

Durability = Literal["full", "normal"]

BUSY_TIMEOUT_MS = 5000
"""Milliseconds to wait for a lock.

Only another program can hold one: a backup, or a person with a shell.
"""
WRITER_CACHE_KIB = 4096
"""KiB of page cache of the writer's connection."""
WAL_SIZE_LIMIT_BYTES = 8 * 1024 * 1024
"""Bytes to which SQLite truncates the write-ahead log at its restart: twice its size at a checkpoint."""
READER_CACHE_KIB = 1024
"""KiB of page cache of each reader's connection."""
MAX_VACUUM_BYTES = 8 * 1024 * 1024 * 1024
"""Maximum bytes of an old database that is rewritten at the first start, in minutes on a slow disk.

If a start took longer than the service manager waits for it, it would be repeated again and again.
"""
AUTO_VACUUM_INCREMENTAL = 2
"""SQLite's number of the mode in which free pages are returned to the file system on request."""


def open_for_writing(path: str, durability: Durability, *, chain: bool = False) -> apsw.Connection:
    """Returns the writer's connection to an up-to-date database; the chain is on or off as requested.

    Creates the database if it is missing. Raises DatabaseUnusable.
    """
    _create_private_file(path)
    try:
        db = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE, statementcachesize=256)
    except apsw.Error as error:
        raise open_error(path, error) from error
    try:
        _prepare(db, path, durability)
        set_chain_enabled(db, enabled=chain)
    except (apsw.Error, OSError) as error:
        failure = open_error(path, error, db.system_errno)
        close_quietly(db)
        raise failure from error
    except DatabaseUnusable:
        close_quietly(db)
        raise
    return db


def open_in_memory() -> apsw.Connection:
    """Returns the only connection to a new database in memory, in 2 ms."""
    db = apsw.Connection(":memory:", statementcachesize=256)
    db.pragma("auto_vacuum", "incremental")
    migrate(db)
    return db


def is_empty(path: str) -> bool:
    """Returns True if the file is missing or has no bytes: opening it for writing then creates a new log."""
    try:
        return os.stat(path).st_size == 0
    except FileNotFoundError:
        return True
    except OSError:
        return False  # opening it reports the error


def open_for_reading(path: str) -> apsw.Connection:
    """Returns a connection for one more reader of a database that has a writer. Raises apsw.Error."""
    db = apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    db.pragma("cache_size", -READER_CACHE_KIB)
    return db


def close_quietly(db: apsw.Connection) -> None:
    """Closes the connection and ignores errors.

    Nothing is lost by an error: the write-ahead log is part of the database.
    """
    with suppress(apsw.Error):
        db.close(force=True)


def _create_private_file(path: str) -> None:
    """Creates the file, private to this user, if it is missing.

    SQLite takes an empty file for a new database, and gives its mode to the -wal and -shm files. The descriptor is
    closed before SQLite opens the file: closing any descriptor of a file drops this process's locks on it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise open_error(path, error) from error


def _prepare(db: apsw.Connection, path: str, durability: Durability) -> None:
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    _reject_foreign_database(db, path)
    if not schema_version(db):
        db.pragma("auto_vacuum", "incremental")  # before the first table exists; later this needs a VACUUM
    if db.pragma("journal_mode", "wal") != "wal":
        message = f"{path}: this file system does not support a write-ahead log"
        raise DatabaseUnusable(message, "Move the home to a local disk.")
    os.chmod(path, 0o600)
    db.pragma("synchronous", durability)
    db.pragma("cache_size", -WRITER_CACHE_KIB)
    # The writer makes the checkpoints itself, after it has delivered its outcomes.
    db.wal_autocheckpoint(0)
    # A write-ahead log that a large write or a long read has grown is truncated when it restarts.
    db.pragma("journal_size_limit", WAL_SIZE_LIMIT_BYTES)
    version = schema_version(db)
    copy = backup_before_upgrade(db, version) if 0 < version < len(MIGRATIONS) else None
    migrate(db)
    if copy:
        log.info("database_upgraded", schema_before=version, schema=len(MIGRATIONS), copy=copy)
    _enable_incremental_vacuum(db, path)


def _enable_incremental_vacuum(db: apsw.Connection, path: str) -> None:
    """Rewrites an old database once, so that its free pages can be returned to the file system.

    If there is no disk space for that, the database stays as it is and the next start tries again. A database larger
    than MAX_VACUUM_BYTES is never rewritten.
    """
    folder, size = os.path.dirname(path), os.path.getsize(path)
    if (
        db.pragma("auto_vacuum") == AUTO_VACUUM_INCREMENTAL
        or size > MAX_VACUUM_BYTES
        or disk_usage(folder).free < 3 * size
    ):
        return
    db.pragma("auto_vacuum", "incremental")
    db.pragma("temp_store_directory", folder)  # /tmp may be too small: it is often in memory
    try:
        db.execute("VACUUM")
    except apsw.Error as error:
        if not (isinstance(error, apsw.FullError) or db.system_errno in NO_SPACE_ERRNOS):
            raise
    finally:
        db.pragma("temp_store_directory", "")
    # The rewritten database is in the write-ahead log. If a reader prevents the truncation, the first write retries.
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _reject_foreign_database(db: apsw.Connection, path: str) -> None:
    """Raises DatabaseUnusable if the file is not a database of this or an older walrusd.

    It only reads, so that another program's database stays as it is.
    """
    empty = db.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if empty and schema_version(db) == 0:
        return
    if db.pragma("application_id") != APPLICATION_ID:
        message = f"{path} is a database of another program"
        raise DatabaseUnusable(message, "Move it away; walrusd then starts with an empty log.", transient=False)
    if empty:
        message = f"{path} has lost its tables: it is marked as walrusd's, with schema {schema_version(db)}, but empty"
        hint = "Restore it from a backup, or move it away; walrusd then starts with an empty log."
        raise DatabaseUnusable(message, hint, transient=False)
    if schema_version(db) > len(MIGRATIONS):
        message = (
            f"{path} was written by a newer walrusd: its schema is version {schema_version(db)}, "
            f"this walrusd supports up to {len(MIGRATIONS)}"
        )
        hint = "Install the newer walrusd again, or restore a backup from before the upgrade."
        raise DatabaseUnusable(message, hint, transient=False)
