"""What the store knows about a table, and the changes that a write can make to it."""

from collections.abc import Sequence
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
