"""The inboxes of the sessions: messages that were accepted, but are not in the log yet."""

from collections.abc import Sequence
from typing import Literal, Self

import apsw
from msgspec import Struct
from msgspec.json import encode

from walrus_protocol.content import Content, MessageKind
from walrus_protocol.json import BadJson, Decoder
from walrusd.store.errors import unreadable_row
from walrusd.store.tables.table import BatchStatement, Mutation, Table

SELECT = "SELECT body FROM inbox WHERE session = ? ORDER BY place"
INSERT = BatchStatement("INSERT INTO inbox (session, place, kind, body) VALUES", 4)
DELETE = BatchStatement("DELETE FROM inbox WHERE (session, place) IN (VALUES", 2, ")")


class InboxEntry(Struct, frozen=True, kw_only=True):
    """A message in a session's inbox: accepted, but not yet in the log.

    Entries are taken in the order of `place`. An entry of kind `close` is a close request that was accepted while
    turns were running or waiting.
    """

    place: int
    kind: MessageKind | Literal["close"]
    content: Content = ""
    sender: str = ""
    key: str | None = None
    timeout_s: float | None = None


class Enqueue(Mutation, frozen=True):
    """Adds an entry to the session's inbox."""

    entry: InboxEntry

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        entries = [(session, change.entry) for session, change in changes]
        INSERT.run(db, [(session, entry.place, entry.kind, encode(entry)) for session, entry in entries])


class Dequeue(Mutation, frozen=True):
    """Removes the entry at a place from the session's inbox."""

    place: int

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        DELETE.run(db, [(session, change.place) for session, change in changes])


TABLES = (Table(name="inbox", session_column="session", mutations=(Enqueue, Dequeue)),)

_decoder = Decoder(InboxEntry)


def read_inbox(db: apsw.Connection, session: int) -> list[InboxEntry]:
    """Returns the inbox in the order of `place`."""
    try:
        return [_decoder.decode(row) for (row,) in db.execute(SELECT, (session,))]
    except BadJson as error:
        raise unreadable_row("a queued message", session, error) from error
