"""Opens the database of a home for reading only, whether walrusd runs or not; creates no files."""

import os
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

APPLICATION_ID = 0x57414C52
"""SQLite application id of walrusd's databases: the letters WALR."""


def open_read_only(path: str) -> sqlite3.Connection:
    """Opens a connection for one thread; each statement reads its own snapshot. Raises sqlite3.Error."""
    # Without a write-ahead log no process has the database open. SQLite would create a log and leave it there.
    immutable = "" if has_wal(path) else "&immutable=1"
    return sqlite3.connect(f"file:{quote(path)}?mode=ro{immutable}", uri=True, timeout=1.0, isolation_level=None)


def has_wal(path: str) -> bool:
    return os.path.exists(f"{path}-wal")


def describe_incompatibility(db: sqlite3.Connection, path: str) -> tuple[str, str] | None:
    """Returns why this walrusctl cannot read the database and what to do, or None if it can."""
    [[mark]], [[schema]] = db.execute("PRAGMA application_id"), db.execute("PRAGMA user_version")
    if mark != APPLICATION_ID:
        return f"{path} is a database of another program", "move it away; walrusd then starts with an empty log"
    if (known := known_schema()) and schema > known:
        message = f"{path} was written by a newer walrusd: its schema version is {schema}, this walrusctl knows {known}"
        return message, "install the newer version again"
    return None


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether the database has no tables, so that the next start of walrusd creates a new log in it."""
    return db.execute("SELECT 1 FROM sqlite_schema").fetchone() is None


def known_schema() -> int:
    """Returns the schema version of the walrusd beside this walrusctl; 0 if none is installed.

    Counts the migration files instead of importing walrusd: the two programs share no code.
    """
    package = find_spec("walrusd")
    folders = (package and package.submodule_search_locations) or ()
    return sum(1 for folder in folders for _ in Path(folder).glob("store/migrations/m[0-9][0-9][0-9]_*.py"))
