"""The used idempotency keys: those of messages (`sent`), by session, and those of `session.create` (`created_with`)."""

from collections.abc import Sequence
from typing import Self

import apsw
from msgspec import Struct

from walrusd.store.tables.table import BatchStatement, Mutation, Table

SELECT = "SELECT digest, turn FROM sent WHERE session = ? AND key = ?"
SELECT_CREATED = "SELECT session, digest FROM created_with WHERE key = ?"
PUT = BatchStatement(
    "INSERT INTO sent (session, key, digest, turn) VALUES",
    4,
    "ON CONFLICT (session, key) DO UPDATE SET digest = excluded.digest, turn = excluded.turn",
)
INSERT_CREATED = BatchStatement("INSERT INTO created_with (key, digest, session) VALUES", 3)


class IdempotencyKey(Struct, frozen=True, kw_only=True):
    """A used idempotency key with the digest of the content sent with it.

    `turn` is None while the content is queued.
    """

    key: str
    digest: bytes
    turn: int | None = None


class PutKey(Mutation, frozen=True):
    """Stores the key of a message of the session, or the turn of a stored key."""

    key: IdempotencyKey

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        keys = [(session, change.key) for session, change in changes]
        PUT.run(db, [(session, one.key, one.digest, one.turn) for session, one in keys])


class AddCreateKey(Mutation, frozen=True):
    """Stores the key of the `session.create` that created the session; such keys are daemon-wide."""

    key: str
    digest: bytes

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        INSERT_CREATED.run(db, [(change.key, change.digest, session) for session, change in changes])


TABLES = (
    Table(name="sent", session_column="session", mutations=(PutKey,)),
    Table(name="created_with", session_column="session", mutations=(AddCreateKey,)),
)


def put_key(key: str | None, digest: bytes) -> tuple[Mutation, ...]:
    """Returns the mutation that stores the key of a message, or none if the message has no key."""
    return () if key is None else (PutKey(IdempotencyKey(key=key, digest=digest)),)


def read_key(db: apsw.Connection, session: int, key: str) -> IdempotencyKey | None:
    row: tuple[bytes, int | None] | None = db.execute(SELECT, (session, key)).fetchone()
    return None if row is None else IdempotencyKey(key=key, digest=row[0], turn=row[1])


def read_session_created_with(db: apsw.Connection, key: str) -> tuple[int, bytes] | None:
    """Returns the session created with this key and the digest of its request, or None if there is none."""
    row: tuple[int, bytes] | None = db.execute(SELECT_CREATED, (key,)).fetchone()
    return row
