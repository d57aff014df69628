"""The database as an older walrusd left it: a copy that is made before its tables are changed."""

import os
from contextlib import suppress
from filecmp import cmp
from itertools import chain, count

import apsw

from walrusd.store.errors import open_error


def backup_before_upgrade(db: apsw.Connection, version: int) -> str:
    """Make a copy beside the database, on the disk when this returns, and this user's alone. Its path.

    It replaces no other one, and there is no second one of the same bytes: a start that fails and is tried again
    and again does not fill the disk. Raises CannotOpen and OSError; then there is no new one.
    """
    name = f"{db.filename}.v{version}.backup"
    half = f"{name}.part"
    try:
        _copy(db, half)
        _sync(half)
        copies = chain([name], (f"{name}.{number}" for number in count(2)))
        copy = next(copy for copy in copies if not os.path.exists(copy) or cmp(half, copy, shallow=False))
        if not os.path.exists(copy):
            os.rename(half, copy)
            _sync(os.path.dirname(copy))
        return copy
    finally:
        with suppress(FileNotFoundError):
            os.unlink(half)


def _copy(db: apsw.Connection, path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # of a start that was killed
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    copy = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE)
    try:
        copy.pragma("journal_mode", "off")  # a half copy is thrown away
        with copy.backup("main", db, "main") as backup:
            backup.step()
    except apsw.Error as error:
        raise open_error(path, error, copy.system_errno) from error
    finally:
        copy.close(force=True)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
