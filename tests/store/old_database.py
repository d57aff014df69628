"""A database as a walrusd of schema version 1 left it, made by that one's own code and kept as text."""

from pathlib import Path

import apsw


def leave_version_1(folder: Path) -> None:
    db = apsw.Connection(str(folder / "walrus.db"))
    db.execute((Path(__file__).parent / "version_1.sql").read_text())
    db.pragma("journal_mode", "wal")
    db.close()


def content(path: Path) -> list[tuple[object, ...]]:
    """Every row of every table of version 1, as it is there."""
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    tables = ("event", "session", "inbox", "sent", "created_with", "turn", "draft", "counter", "sqlite_sequence")
    rows = [(table, *row) for table in tables for row in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
    db.close()
    return rows


def version(path: Path) -> object:
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    number: object = db.pragma("user_version")
    db.close()
    return number
