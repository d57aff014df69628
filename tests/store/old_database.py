"""Databases as every released walrusd left one, made by that one's own code and kept as text."""

from pathlib import Path

import apsw

VERSIONS = (1, 2)
TABLES = ("event", "session", "inbox", "sent", "created_with", "turn", "draft", "counter", "sqlite_sequence")
SINCE_2 = ("output", "output_of", "tick", "ledger", "schedule")


def leave(version: int, folder: Path) -> None:
    db = apsw.Connection(str(folder / "walrus.db"))
    db.execute((Path(__file__).parent / f"version_{version}.sql").read_text())
    db.pragma("journal_mode", "wal")
    db.close()


def content(path: Path, of_version: int) -> list[tuple[object, ...]]:
    """Every row of every table of that version, as it is there."""
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    tables = TABLES if of_version == 1 else TABLES + SINCE_2
    rows = [(table, *row) for table in tables for row in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
    db.close()
    return rows


def version(path: Path) -> object:
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    number: object = db.pragma("user_version")
    db.close()
    return number
