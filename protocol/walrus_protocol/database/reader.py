"""Opens walrus.db for reading only, whether walrusd runs or not; creates no files."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

from walrus_protocol.database.schema import APPLICATION_ID, SCHEMA_VERSION

T = TypeVar("T")

BUSY_TIMEOUT_S = 1.0
"""Seconds to wait for a lock; walrusd holds none that excludes readers, except when it starts or ends."""
_PROGRESS_STEPS = 10_000
"""Instructions of SQLite's virtual machine between two checks of the time: less than a millisecond."""

ReadFault = Literal["not_a_database", "damaged", "no_access", "locked", "other"]
_FAULTS: dict[int, ReadFault] = {
    sqlite3.SQLITE_NOTADB: "not_a_database",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_CANTOPEN: "no_access",
    sqlite3.SQLITE_PERM: "no_access",
    sqlite3.SQLITE_READONLY: "no_access",
    sqlite3.SQLITE_BUSY: "locked",
}


class DatabaseUnreadable(Exception):
    """SQLite cannot read the file."""

    def __init__(self, message: str, fault: ReadFault) -> None:
        super().__init__(message)
        self.fault = fault


class DatabaseReader:
    """A connection for one thread; each statement outside `snapshot` reads the newest state.

    All methods raise DatabaseUnreadable, and TimeoutError after the deadline.
    """

    def __init__(self, path: str) -> None:
        # Without a write-ahead log no process has the database open. SQLite would create a log and leave it there.
        immutable = "" if has_wal(path) else "&immutable=1"
        uri = f"file:{quote(path)}?mode=ro{immutable}"
        self._path = path
        with _own_errors():
            self._db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def rows(self, sql: str, *bindings: int) -> Iterator[tuple[Any, ...]]:
        with _own_errors():
            # Not `yield from`: closing the generator would close the cursor, which only the reader's thread may do.
            for row in self._db.execute(sql, bindings):  # noqa: UP028
                yield row

    def row(self, sql: str, *bindings: int) -> tuple[Any, ...] | None:
        return next(self.rows(sql, *bindings), None)

    def number(self, sql: str, *bindings: int) -> int:
        """Returns the only value of a query that has one row."""
        [[number]] = self.rows(sql, *bindings)
        assert isinstance(number, int)
        return number

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All statements inside see the same state of a log that may be written meanwhile."""
        with _own_errors():
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            with _own_errors():
                self._db.execute("COMMIT")

    def set_deadline(self, end: float) -> None:
        """Interrupts statements at a time of the monotonic clock."""
        self._db.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)

    @property
    def schema_version(self) -> int:
        return self.number("PRAGMA user_version")

    @property
    def is_empty(self) -> bool:
        """Whether the database has no tables, so that the next start of walrusd creates a new log in it."""
        return self.row("SELECT 1 FROM sqlite_schema") is None

    def incompatibility(self) -> tuple[str, str] | None:
        """Returns why this walrusctl cannot read the database and what to do, or None if it can."""
        if self.number("PRAGMA application_id") != APPLICATION_ID:
            return (
                f"{self._path} is a database of another program",
                "move it away; walrusd then starts with an empty log",
            )
        if (schema := self.schema_version) > SCHEMA_VERSION:
            message = (
                f"{self._path} was written by a newer walrusd: its schema version is {schema}, "
                f"this walrusctl knows {SCHEMA_VERSION}"
            )
            return message, "install the newer version again"
        return None

    def find_damage(self) -> str | None:
        """Reads the whole database; returns the first inconsistency in its pages."""
        [[result]] = self.rows("PRAGMA quick_check(1)")
        return None if result == "ok" else str(result).splitlines()[-1]

    def newest_event_time(self) -> float | None:
        """Returns the Unix time of the last event; None if there is none."""
        time_of_body = "CAST(json_extract(CAST(body AS TEXT), '$.ts') AS REAL)"
        row = self.row(f'SELECT {time_of_body} FROM event ORDER BY "offset" DESC LIMIT 1')  # noqa: S608 - only our own text
        return row[0] if row else None

    def space(self) -> tuple[int, int]:
        """Returns the bytes that are used, and those that are free in the file."""
        size, pages, free = (self.number(f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count"))
        return (pages - free) * size, free * size


def read_stable(path: str, read: Callable[[DatabaseReader], T], *, is_fault: Callable[[T], bool]) -> T:
    """Returns the result of `read`.

    Reads again if there is a fault and a walrusd was started or stopped meanwhile: the file changed under the reader.
    Raises DatabaseUnreadable and OSError.
    """
    while True:
        before = _file_state(path)
        try:
            with DatabaseReader(path) as db:
                found = read(db)
        except DatabaseUnreadable:
            if _file_state(path) == before:
                raise
        else:
            if not is_fault(found) or _file_state(path) == before:
                return found


def has_wal(path: str) -> bool:
    return os.path.exists(f"{path}-wal")


def _file_state(path: str) -> tuple[bool, int]:
    """Whether a process has the database open; if not, the time of the last change."""
    changed = os.stat(path).st_mtime_ns
    return (True, 0) if has_wal(path) else (False, changed)


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_INTERRUPT:
            raise TimeoutError from error
        raise DatabaseUnreadable(str(error), _FAULTS.get(code & 0xFF, "other")) from error
