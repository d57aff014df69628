"""Writes the hash chain (see `walrus_protocol.database.hash_chain`) with the apsw connection of the writer."""

import json
from collections.abc import Collection, Iterable

import apsw

from walrus_protocol.database.hash_chain import (
    INITIAL_LINK,
    SEGMENTS,
    ChainHead,
    compute_link,
    hash_body,
    segment_name,
)
from walrus_protocol.database.schema import EXPIRED_SESSIONS, FULL_BODY, LAST_OFFSET

OPEN_SEGMENT = f"SELECT first FROM ({SEGMENTS}) WHERE last = 0"  # noqa: S608 - only our own text
LAST_LINK = 'SELECT "offset", link FROM link WHERE "offset" >= ? ORDER BY "offset" DESC LIMIT 1'
EVENTS_TO_DELETE = f"""
SELECT event."offset", event.session, event.seq, {FULL_BODY} FROM link JOIN event USING ("offset")
WHERE link."offset" IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - as above

UNLISTED_SESSIONS = f"""
WITH RECURSIVE is_read (session) AS (
    SELECT parent FROM fork WHERE EXISTS (SELECT 1 FROM session WHERE id = child)
    UNION SELECT parent FROM fork JOIN is_read ON child = is_read.session
)
SELECT session FROM remains WHERE EXISTS (SELECT 1 FROM link)
AND session NOT IN (SELECT session FROM is_read) AND session NOT IN (SELECT value FROM json_each(?))
AND session NOT IN (SELECT session FROM ({EXPIRED_SESSIONS}))
"""  # noqa: S608 - as above


class Chain:
    """Computes the links of one transaction. `head` is the last link."""

    def __init__(self, head: ChainHead) -> None:
        self.head = head

    def link_events(self, events: Iterable[tuple[int, int, int, bytes]]) -> list[tuple[int, bytes]]:
        """Returns the `link` rows for events: (offset, session, seq, whole body), in order of offset."""
        rows = []
        offset, link = self.head
        for offset, session, seq, body in events:
            link = compute_link(link, offset, session, seq, hash_body(body))
            rows.append((offset, link))
        self.head = ChainHead(offset, link)
        return rows


def set_chain_enabled(db: apsw.Connection, *, enabled: bool) -> None:
    """Switches the chain on or off: opens a segment, or closes the open one. Raises apsw.Error."""
    first = db.execute(OPEN_SEGMENT).get
    if enabled == (first is not None):
        return
    last: int = db.execute(LAST_OFFSET).get
    if enabled:
        db.execute("INSERT INTO counter VALUES (?, 0)", (segment_name(last + 1),))
    elif first <= last:
        db.execute("UPDATE counter SET value = ? WHERE name = ?", (last, segment_name(first)))
    else:
        db.execute("DELETE FROM counter WHERE name = ?", (segment_name(first),))


def read_head(db: apsw.Connection) -> ChainHead | None:
    """Returns the link that the next one follows, or None if the chain is off."""
    first: int | None = db.execute(OPEN_SEGMENT).get
    if first is None:
        return None
    last: tuple[int, bytes] | None = db.execute(LAST_LINK, (first,)).fetchone()
    return ChainHead(*last) if last else ChainHead(first - 1, INITIAL_LINK)


def unlisted_sessions(db: apsw.Connection, importing_sessions: Collection[int]) -> list[int]:
    """Returns sessions that `sweep` will delete although no daemon event records that yet.

    They were never listed: ancestors that came with an import, or sessions of an import that was cut off. Returns none
    if there are no links.
    """
    return [session for (session,) in db.execute(UNLISTED_SESSIONS, (json.dumps([*importing_sessions]),))]


def store_digests(db: apsw.Connection, offsets: list[int]) -> None:
    """Stores session, seq and body digest of events in their links, so that these can be deleted.

    Call it in the transaction that deletes the events, before the events and their texts are deleted. Does nothing
    for events without a link.
    """
    for offset, session, seq, body in db.execute(EVENTS_TO_DELETE, (json.dumps(offsets),)).fetchall():
        assert isinstance(body, bytes)
        values = (session, seq, hash_body(body), offset)
        db.execute('UPDATE link SET session = ?, seq = ?, digest = ? WHERE "offset" = ?', values)
