"""The drafts of the sessions: partial replies of open turns, whose messages are not in the log yet."""

from collections.abc import Sequence
from typing import Self

import apsw
from msgspec.json import encode

from walrus_protocol.json import BadJson, Decoder
from walrusd.session.recovery import Draft
from walrusd.store.tables.table import BatchStatement, Mutation, Table

SELECT = "SELECT body FROM draft WHERE session = ?"
PUT = BatchStatement(
    "INSERT INTO draft (session, body) VALUES", 2, "ON CONFLICT (session) DO UPDATE SET body = excluded.body"
)
DELETE = BatchStatement("DELETE FROM draft WHERE session IN (VALUES", 1, ")")


class SaveDraft(Mutation, frozen=True):
    """Stores the session's draft in place of an earlier one."""

    draft: Draft

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        PUT.run(db, [(session, encode(change.draft)) for session, change in changes])


class DropDraft(Mutation, frozen=True):
    """Deletes the session's draft, if it has one."""

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        DELETE.run(db, [(session,) for session, _ in changes])


TABLES = (Table(name="draft", session_column="session", mutations=(SaveDraft, DropDraft)),)

_decoder = Decoder(Draft)


def read_draft(db: apsw.Connection, session: int) -> Draft | None:
    """Returns the draft, or None if another version wrote it differently: the log is complete without it."""
    row: bytes | None = db.execute(SELECT, (session,)).get
    try:
        return None if row is None else _decoder.decode(row)
    except BadJson:
        return None
