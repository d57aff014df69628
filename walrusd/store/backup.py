"""Backs up a database of an older schema before a migration changes its tables."""

import os
from contextlib import suppress
from filecmp import cmp
from itertools import chain, count

import apsw

from walrusd.store.errors import open_error


def backup_before_upgrade(db: apsw.Connection, version: int) -> str:
    """Copies the database to a file beside it and returns the path of the copy.

    The copy is synced to the disk, and only this user can read it. It never replaces another copy. A copy with the
    same bytes is not made twice: a start that fails and is tried again and again does not fill the disk.
    Raises DatabaseUnusable or OSError; then there is no new copy.
    """
    name = f"{db.filename}.v{version}.backup"
    partial_path = f"{name}.part"
    try:
        _copy(db, partial_path)
        _sync(partial_path)
        copies = chain([name], (f"{name}.{number}" for number in count(2)))
        copy = next(copy for copy in copies if not os.path.exists(copy) or cmp(partial_path, copy, shallow=False))
        if not os.path.exists(copy):
            os.rename(partial_path, copy)
            _sync(os.path.dirname(copy))
        return copy
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial_path)


def _copy(db: apsw.Connection, path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # left by a start that was killed
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    copy = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE)
    try:
        copy.pragma("journal_mode", "off")  # an incomplete copy is deleted
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
