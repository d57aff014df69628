"""Maintains the hash chain: a row in `link` for each event, written in the transaction of the event.

A segment of the chain is the range of events written while the chain was on. `counter` has a row for each segment,
"chain FIRST": its name contains the offset of the first event, its value is the offset of the last one, or 0 while the
segment is open. With these, `walrusctl verify` notices missing links: the first, the last or all of them.
"""

import json
from collections.abc import Collection, Iterable

import apsw

from walrus_protocol.hash_chain import INITIAL_LINK, ChainHead, compute_link, hash_body
from walrusd.store.contract import DAEMON_SESSION, SESSIONS_EXPIRED_PREFIX
from walrusd.store.queries import FULL_BODY

OPEN_SEGMENT = "SELECT CAST(substr(name, 7) AS INTEGER) FROM counter WHERE name GLOB 'chain *' AND value = 0"
LAST_LINK = 'SELECT "offset", link FROM link WHERE "offset" >= ? ORDER BY "offset" DESC LIMIT 1'
LAST_OFFSET = "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'"
EVENTS_TO_DELETE = f"""
SELECT event."offset", event.session, event.seq, {FULL_BODY} FROM link JOIN event USING ("offset")
WHERE link."offset" IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - only our own text

UNLISTED_SESSIONS = f"""
WITH RECURSIVE is_read (session) AS (
    SELECT parent FROM fork WHERE EXISTS (SELECT 1 FROM session WHERE id = child)
    UNION SELECT parent FROM fork JOIN is_read ON child = is_read.session
)
SELECT session FROM remains WHERE EXISTS (SELECT 1 FROM link)
AND session NOT IN (SELECT session FROM is_read) AND session NOT IN (SELECT value FROM json_each(?))
AND session NOT IN (
    SELECT value FROM event, json_each(CAST(event.body AS TEXT), '$.sessions')
    WHERE event.session = {DAEMON_SESSION} AND substr(event.body, 1, {len(SESSIONS_EXPIRED_PREFIX)}) = ?
)
"""  # noqa: S608 - as above


class Chain:
    """Computes the links of one transaction. `head` is the last link, or None if the chain is off."""

    def __init__(self, head: ChainHead | None) -> None:
        self.head = head

    def link_events(self, events: Iterable[tuple[int, int, int, bytes]]) -> list[tuple[int, bytes]]:
        """Returns the `link` rows for events: (offset, session, seq, whole body), in order of offset."""
        if self.head is None:
            return []
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
        db.execute("INSERT INTO counter VALUES (?, 0)", (f"chain {last + 1}",))
    elif first <= last:
        db.execute("UPDATE counter SET value = ? WHERE name = ?", (last, f"chain {first}"))
    else:
        db.execute("DELETE FROM counter WHERE name = ?", (f"chain {first}",))


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
    return [
        session
        for (session,) in db.execute(UNLISTED_SESSIONS, (json.dumps([*importing_sessions]), SESSIONS_EXPIRED_PREFIX))
    ]


def store_digests(db: apsw.Connection, offsets: list[int]) -> None:
    """Stores session, seq and body digest of events in their links, so that these can be deleted.

    Call it in the transaction that deletes the events, before the events and their texts are deleted. Does nothing
    for events without a link.
    """
    for offset, session, seq, body in db.execute(EVENTS_TO_DELETE, (json.dumps(offsets),)).fetchall():
        assert isinstance(body, bytes)
        values = (session, seq, hash_body(body), offset)
        db.execute('UPDATE link SET session = ?, seq = ?, digest = ? WHERE "offset" = ?', values)
