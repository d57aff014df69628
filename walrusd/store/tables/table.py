"""What the store knows about a table, the changes that a write can make to it, and statements for many rows at once.

Each step into SQLite releases the GIL, and a busy loop returns it late. Measured with a batch of 16 beside a busy
thread: 9,000 rows/s with 64 rows per step, 1,400 rows/s with one.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, Self

import apsw
from msgspec import Struct

MAX_ID_PLUS_ONE = 2**53
"""A number above every id: ids are at most 2^53 - 1, which every JSON reader represents exactly."""


class Mutation(Struct, frozen=True):
    """A change of a table, made in the transaction of a `Write`. Each subclass belongs to one table."""

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        """Makes all changes of this class in a batch; each comes with the session of its write."""
        raise NotImplementedError


class Table(Struct, frozen=True, kw_only=True):
    """A table of the database, as far as writes and deletions must know it."""

    name: str
    mutations: tuple[type[Mutation], ...] = ()
    """The changes that a write can make to it, in the order in which they are made."""
    session_column: str = ""
    """The column with the session that a row is deleted with, or "" if rows outlive sessions."""
    kept_while: Literal["listed", "has_events"] = "listed"
    """When rows are deleted: as soon as their session is, or when `sweep` has deleted its last event."""


SqlRow = tuple[int | float | str | bytes | None, ...]


class BatchStatement:
    """A statement for any number of rows, executed in powers of two.

    Few texts then fill the statement cache.
    """

    def __init__(self, head: str, columns: int, tail: str = "") -> None:
        row = f"({','.join('?' * columns)})"
        self._sql_by_size = {size: f"{head} {','.join([row] * size)} {tail}" for size in (64, 32, 16, 8, 4, 2, 1)}

    def run(self, db: apsw.Connection, rows: Sequence[SqlRow]) -> None:
        done = 0
        for size, text in self._sql_by_size.items():
            while len(rows) - done >= size:
                db.execute(text, tuple(chain.from_iterable(rows[done : done + size])))
                done += size


class BlobStatement:
    """A statement for rows of megabytes, executed row by row.

    It is not cached: a cached statement keeps its last bindings in memory.
    """

    def __init__(self, sql: str) -> None:
        self._sql = sql

    def run(self, db: apsw.Connection, rows: Sequence[SqlRow]) -> None:
        for row in rows:
            db.execute(self._sql, row, can_cache=False)
