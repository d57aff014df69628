"""Databases of every released schema version, written by that version and stored as SQL text."""

from pathlib import Path

import apsw

VERSIONS = (1, 2, 3)
TABLES = {
    "event": '"offset", session, seq, body',
    "session": "id, agent, state, in_turn, outline",
    **dict.fromkeys(("inbox", "sent", "created_with", "turn", "draft", "counter", "sqlite_sequence"), "*"),
}
"""The tables of version 1 and their columns; for tables with more columns today, only the old ones."""
TABLES_SINCE_2 = TABLES | dict.fromkeys(("output", "output_of", "tick", "ledger", "schedule"), "*")


def create(version: int, folder: Path) -> None:
    db = apsw.Connection(str(folder / "walrus.db"))
    db.execute((Path(__file__).parent / f"version_{version}.sql").read_text())
    db.pragma("journal_mode", "wal")
    db.close()


def table_contents(path: Path, as_of_version: int) -> list[tuple[object, ...]]:
    """Returns every row of every table of that version, in the columns of that version."""
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    tables = TABLES if as_of_version == 1 else TABLES_SINCE_2
    rows = [
        (table, *row)
        for table, columns in tables.items()
        for row in db.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2")
    ]
    db.close()
    return rows


def schema_version(path: Path) -> object:
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    number: object = db.pragma("user_version")
    db.close()
    return number
