"""The long outputs of tools: each content once (`output`), and the sessions that have it (`output_of`)."""

import hashlib
from collections.abc import Sequence
from typing import Self

import apsw
from msgspec import Struct

from walrusd.store.tables.table import BatchStatement, BlobStatement, Mutation, Table

# SQLite's substr of an empty blob is null.
SELECT = """SELECT ifnull(substr(body, :offset + 1, :limit), x'') FROM output
WHERE ref = :ref AND EXISTS (SELECT 1 FROM output_of WHERE session = :session AND ref = :ref)"""
INSERT = BlobStatement("INSERT INTO output (ref, body) VALUES (?, ?) ON CONFLICT (ref) DO NOTHING")
INSERT_OWNER = BatchStatement("INSERT INTO output_of (session, ref) VALUES", 2, "ON CONFLICT (session, ref) DO NOTHING")
DELETE_OWNER = BatchStatement("DELETE FROM output_of WHERE (session, ref) IN (VALUES", 2, ")")


class StoredOutput(Struct, frozen=True, kw_only=True):
    """The whole output of a tool, stored once per content. `ref` is a hash of `body`, which is UTF-8."""

    ref: str
    body: bytes

    @classmethod
    def from_body(cls, body: bytes) -> "StoredOutput":
        return cls(ref=hashlib.sha256(body).hexdigest()[:32], body=body)


class AddOutput(Mutation, frozen=True):
    """Gives an output to the session; if it is stored already, it is not written again."""

    output: StoredOutput

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        INSERT.run(db, [(change.output.ref, change.output.body) for _, change in changes])
        INSERT_OWNER.run(db, [(session, change.output.ref) for session, change in changes])


class ReleaseOutput(Mutation, frozen=True):
    """Takes an output from a session. `sweep` deletes outputs that no session has."""

    session: int
    ref: str

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        DELETE_OWNER.run(db, [(change.session, change.ref) for _, change in changes])


TABLES = (
    Table(name="output"),
    Table(name="output_of", session_column="session", mutations=(AddOutput, ReleaseOutput)),
)


def read_output(db: apsw.Connection, session: int, ref: str, offset: int, limit: int) -> bytes | None:
    """Returns at most `limit` bytes of an output from `offset` on, or None if the session lacks it."""
    piece: bytes | None = db.execute(SELECT, {"session": session, "ref": ref, "offset": offset, "limit": limit}).get
    return piece
