"""The sessions that have events but no row in `session`: deleted ones, and those of an import under way."""

from collections.abc import Sequence
from typing import Self

import apsw

from walrusd.store.tables.table import BatchStatement, Mutation, Table

INSERT = BatchStatement("INSERT INTO remains (session) VALUES", 1, "ON CONFLICT (session) DO NOTHING")
DELETE = BatchStatement("DELETE FROM remains WHERE session IN (VALUES", 1, ")")


class AddUnlisted(Mutation, frozen=True):
    """Announces a session whose rows are written before it is listed.

    `sweep` deletes them unless the session is in `importing_sessions`.
    """

    session: int

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        INSERT.run(db, [(change.session,) for _, change in changes])


TABLES = (Table(name="remains", session_column="session", kept_while="has_events", mutations=(AddUnlisted,)),)
