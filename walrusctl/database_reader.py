"""The log on disk, opened for reading only, beside a running walrusd or without one. Nothing is left behind by it."""

import os
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

APPLICATION_ID = 0x57414C52
"""WALR: how walrusd marks its databases."""


def open_read_only(path: str) -> sqlite3.Connection:
    """For one thread; each statement is a snapshot of its own. Raises sqlite3.Error."""
    # Where there is no write-ahead log nobody has it open, and SQLite would leave one behind that is its own.
    alone = "" if has_wal(path) else "&immutable=1"
    return sqlite3.connect(f"file:{quote(path)}?mode=ro{alone}", uri=True, timeout=1.0, isolation_level=None)


def has_wal(path: str) -> bool:
    return os.path.exists(f"{path}-wal")


def describe_incompatibility(db: sqlite3.Connection, path: str) -> tuple[str, str] | None:
    """Why this walrusctl cannot know what is in there, and what to do; None where it can."""
    [[mark]], [[schema]] = db.execute("PRAGMA application_id"), db.execute("PRAGMA user_version")
    if mark != APPLICATION_ID:
        return f"{path} is a database of another program", "move it away: walrusd then starts with an empty log"
    if (known := known_schema()) and schema > known:
        message = f"{path} was written by a newer walrusd: its schema is version {schema}, known here is {known}"
        return message, "install that version again"
    return None


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether the next start makes a new log of it."""
    return db.execute("SELECT 1 FROM sqlite_schema").fetchone() is None


def known_schema() -> int:
    """The schema that the walrusd beside this walrusctl writes; 0 where none is installed.

    Looked for and not imported: the two programs share a home, and no code.
    """
    package = find_spec("walrusd")
    folders = (package and package.submodule_search_locations) or ()
    return sum(1 for folder in folders for _ in Path(folder).glob("store/migrations/m[0-9][0-9][0-9]_*.py"))
