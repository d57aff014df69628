"""Why a database cannot be opened or written: in words for the person who can mend it, with what to do next."""

import errno
import os

import apsw

from walrus_protocol.json import BadJson
from walrusd.store.contract import StorageFailed, StorageFull

NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
CORRUPTION_ERRORS = (apsw.CorruptError, apsw.NotADBError)
"""What no second try mends, nor another disk."""


class DatabaseUnusable(StorageFailed):
    """The database cannot be used as it is, which may show when it has long been open. What is in it is untouched."""

    def __init__(self, message: str, hint: str, *, transient: bool = True) -> None:
        """`passing`: another try may find it otherwise, with nobody having seen to the database."""
        super().__init__(message)
        self.hint = hint
        self.transient = transient


def open_error(path: str, error: apsw.Error | OSError | BadJson, error_number: int = 0) -> DatabaseUnusable:
    """`number` is the errno behind an error of SQLite's, if any: `system_errno` of its connection."""
    match error:
        case apsw.NotADBError():
            return DatabaseUnusable(
                f"{path} is no walrusd database",
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
        case OSError(errno=int(said)):
            return _error_for_errno(path, said)
        case _:
            return DatabaseUnusable(f"cannot open {path}: {error}", "Look at the disk, then start again.")


def unreadable_row(what: str, session: int, error: BadJson) -> StorageFailed:
    """Returns the failure of one session whose row cannot be decoded; no other session is affected by it."""
    failure = StorageFailed(f"{what} of session {session} cannot be read: {error}")
    failure.hint = (
        "Other sessions are not affected. `walrusctl doctor` says what is wrong; restore walrus.db from a backup."
    )
    return failure


def _error_for_errno(path: str, error_number: int) -> DatabaseUnusable:
    said = os.strerror(error_number)
    match error_number:
        case errno.ENOSPC | errno.EDQUOT:
            message = f"there is no room to write {path}: {said}"
            hint = "Free some disk space, then start again. Nothing that was in it is lost."
        case errno.EROFS:
            message = f"{path} lies on a disk that cannot be written: {said}"
            hint = (
                "Mount it for writing, or move the home (WALRUS_HOME). A disk with errors is made read-only: see dmesg."
            )
        case errno.EACCES | errno.EPERM:
            message = f"this user may not write {path}, or not beside it: {said}"
            hint = "Let this user write to the file and its folder."
        case errno.ENOENT | errno.ENOTDIR:
            message = f"cannot open {path}: {said}"
            hint = "Make its folder, and let this user write there."
        case errno.EIO:
            message = f"the disk cannot read or write {path}: {said}"
            hint = "See in dmesg what is wrong with the disk, and copy the home to another one before anything else."
        case _:
            message = f"cannot open {path}: {said}"
            hint = "Look at the disk, then start again."
    return DatabaseUnusable(message, hint)


def write_error(db: apsw.Connection, error: Exception) -> StorageFailed:
    """What became of a transaction, in the words of the contract."""
    if isinstance(error, CORRUPTION_ERRORS):
        return open_error(db.filename, error)
    if isinstance(error, apsw.ConstraintError):
        failed = StorageFailed(f"{db.filename} is not what walrusd has written, so nothing can be added there: {error}")
        failed.hint = (
            "Rows of it were removed or changed. `walrusctl doctor` says which; restore walrus.db from a backup."
        )
        failed.__cause__ = error
        return failed
    number = db.system_errno if isinstance(error, apsw.IOError) else 0
    kind = StorageFull if isinstance(error, apsw.FullError) or number in NO_SPACE_ERRNOS else StorageFailed
    why = str(error) or type(error).__name__
    failure = kind(f"cannot write to {db.filename}: {why}" + (f" ({os.strerror(number)})" if number else ""))
    failure.__cause__ = error
    return failure
