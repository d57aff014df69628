"""The tables of the database, a file each: rows, statements, reads, and the changes that a write can make.

A new table is a file, an entry in TABLES and a migration.
"""

from walrusd.store.tables import (
    draft,
    event,
    idempotency_key,
    inbox,
    output,
    remains,
    schedule,
    searchable_text,
    session,
    tick,
    turn,
)
from walrusd.store.tables.table import Table

TABLES: tuple[Table, ...] = (
    *event.TABLES,
    *searchable_text.TABLES,
    *remains.TABLES,
    *session.TABLES,
    *inbox.TABLES,
    *idempotency_key.TABLES,
    *turn.TABLES,
    *draft.TABLES,
    *output.TABLES,
    *tick.TABLES,
    *schedule.TABLES,
)
"""All tables. The mutations of a batch are made in this order."""
