"""The errors of the store, and the hint what to do next that SQLite and operating system errors get."""

import errno
import os

import apsw

from walrus_protocol.json import BadJson
from walrus_protocol.problems import Problem
from walrus_protocol.wire import Kind

NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
CORRUPTION_ERRORS = (apsw.CorruptError, apsw.NotADBError)
"""SQLite errors that neither a retry nor another disk can fix."""


class StorageFailed(Problem):
    """Raised if the store cannot write or read. Nothing of a failed write is durable, and it used no seq."""

    _kind: Kind = "storage_failed"
    _hint = "Check the disk and the daemon's log; the session continues when the store can write again."

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(self._kind, message, hint or self._hint)


class StorageFull(StorageFailed):
    """Raised if there is no disk space left for the log."""

    _kind = "storage_full"
    _hint = "Free some disk space; the session continues when the store can write again."


class DatabaseUnusable(StorageFailed):
    """Raised if the database cannot be used as it is, at its opening or later.

    Its content is left untouched.
    """

    def __init__(self, message: str, hint: str, *, transient: bool = True) -> None:
        """`transient`: a retry may succeed without a repair of the database."""
        super().__init__(message, hint)
        self.transient = transient


def open_error(path: str, error: apsw.Error | OSError | BadJson, error_number: int = 0) -> DatabaseUnusable:
    """Returns the failure for an error that occurred while the database was opened or read.

    `error_number` is the errno behind an SQLite error, if any: `system_errno` of its connection.
    """
    match error:
        case apsw.NotADBError():
            return DatabaseUnusable(
                f"{path} is not a walrusd database",
                "Restore it from a backup, or move it away; walrusd then starts with an empty log.",
                transient=False,
            )
        case apsw.CorruptError() | BadJson():
            return DatabaseUnusable(
                f"{path} is damaged: {error}",
                f"Restore it from a backup, or save what can be read: sqlite3 {path} .recover",
                transient=False,
            )
        case apsw.BusyError():
            return DatabaseUnusable(f"{path} is locked by another process", "End that process, then start again.")
        case apsw.FullError():
            return _error_for_errno(path, errno.ENOSPC)
        case apsw.ReadOnlyError():
            return _error_for_errno(path, errno.EACCES)
        case apsw.IOError():
            return _error_for_errno(path, error_number or errno.EIO)
        case apsw.CantOpenError():
            return _error_for_errno(path, error_number or errno.EACCES)
        case OSError(errno=int(number)):
            return _error_for_errno(path, number)
        case _:
            return DatabaseUnusable(f"cannot open {path}: {error}", "Check the disk, then start again.")


class UnreadableRow(StorageFailed):
    """One session has a row that cannot be decoded; no other session is affected."""


def unreadable_row(what: str, session: int, error: BadJson) -> UnreadableRow:
    """Returns the failure of one session whose row cannot be decoded."""
    return UnreadableRow(
        f"{what} of session {session} cannot be read: {error}",
        "Other sessions are not affected. Restore walrus.db from a backup; `walrusctl doctor` checks the rest.",
    )


def _error_for_errno(path: str, error_number: int) -> DatabaseUnusable:
    reason = os.strerror(error_number)
    match error_number:
        case errno.ENOSPC | errno.EDQUOT:
            message = f"cannot write {path}: {reason}"
            hint = "Free some disk space, then start again. The data already stored is not lost."
        case errno.EROFS:
            message = f"{path} is on a read-only disk: {reason}"
            hint = (
                "Mount it for writing, or move the home (WALRUS_HOME). "
                "Linux makes a disk with errors read-only: see dmesg."
            )
        case errno.EACCES | errno.EPERM:
            message = f"this user cannot write {path} or its folder: {reason}"
            hint = "Let this user write to the file and its folder."
        case errno.ENOENT | errno.ENOTDIR:
            message = f"cannot open {path}: {reason}"
            hint = "Create its folder, and let this user write there."
        case errno.EIO:
            message = f"the disk cannot read or write {path}: {reason}"
            hint = "First copy the home to another disk. Then look in dmesg for the disk's errors."
        case _:
            message = f"cannot open {path}: {reason}"
            hint = "Check the disk, then start again."
    return DatabaseUnusable(message, hint)


def write_error(db: apsw.Connection, error: Exception) -> StorageFailed:
    """Returns the StorageFailed for the error of a transaction.

    Its cause has no traceback. The frames of that one refer to the failed write and to its outcome, which is the result
    of this: such a reference cycle would keep the session in memory until the garbage collector runs.
    """
    path = db.filename or ":memory:"
    if isinstance(error, CORRUPTION_ERRORS):
        return open_error(path, error)
    if isinstance(error, apsw.ConstraintError):
        failure = StorageFailed(
            f"{path} does not hold what walrusd wrote, so nothing can be added: {error}",
            "Rows were removed or changed. `walrusctl doctor` lists them; restore walrus.db from a backup.",
        )
        failure.__cause__ = error.with_traceback(None)
        return failure
    number = db.system_errno if isinstance(error, apsw.IOError) else 0
    kind = StorageFull if isinstance(error, apsw.FullError) or number in NO_SPACE_ERRNOS else StorageFailed
    reason = str(error) or type(error).__name__
    failure = kind(f"cannot write to {path}: {reason}" + (f" ({os.strerror(number)})" if number else ""))
    failure.__cause__ = error.with_traceback(None)
    return failure
