"""Deletes sessions and their rows, as the entries of TABLES say."""

from collections.abc import Sequence
from typing import Self

import apsw

from walrusd.store.tables import TABLES, remains
from walrusd.store.tables.table import BatchStatement, Mutation

DELETE_LISTED = tuple(
    BatchStatement(f"DELETE FROM {table.name} WHERE {table.session_column} IN (VALUES", 1, ")")  # noqa: S608 - own text
    for table in TABLES
    if table.session_column and table.kept_while == "listed"
)
DELETE_ALL = tuple(
    f"DELETE FROM {table.name} WHERE {table.session_column} = ?"  # noqa: S608 - as above
    for table in TABLES
    if table.session_column
)
"""The statements that delete all rows of a session except its events."""


class ExpireSession(Mutation, frozen=True):
    """Deletes a closed session. It is not listed from now on; `sweep` deletes its events later."""

    session: int

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        sessions = [(change.session,) for _, change in changes]
        for statement in DELETE_LISTED:
            statement.run(db, sessions)
        remains.INSERT.run(db, sessions)
