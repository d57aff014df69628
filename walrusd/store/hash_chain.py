"""The chain as the writer keeps it: a row of `link` for each event, in the transaction of the event.

A stretch of the chain is what was written while it was switched on. `counter` has a row for each, "chain FIRST": the
offset of its first event is in the name, that of its last one is the value, 0 while it goes on. By that a link that is
gone is missed, be it the first, the last or all of them.
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
"""  # noqa: S608 - words of ours

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
    """The links of one transaction. `head` is the last of them, None where the chain is switched off."""

    def __init__(self, head: ChainHead | None) -> None:
        self.head = head

    def link_events(self, events: Iterable[tuple[int, int, int, bytes]]) -> list[tuple[int, bytes]]:
        """The rows for events, each as (offset, session, seq, whole body), in the order of their offsets."""
        if self.head is None:
            return []
        rows = []
        last, before = self.head
        for last, session, seq, body in events:
            before = compute_link(before, last, session, seq, hash_body(body))
            rows.append((last, before))
        self.head = ChainHead(last, before)
        return rows


def set_chain_enabled(db: apsw.Connection, *, enabled: bool) -> None:
    """Begin a stretch or end the one that goes on, so that from now on the chain is on or off. Raises apsw.Error."""
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
    """What the next link follows; None where the chain is off."""
    first: int | None = db.execute(OPEN_SEGMENT).get
    if first is None:
        return None
    last: tuple[int, bytes] | None = db.execute(LAST_LINK, (first,)).fetchone()
    return ChainHead(*last) if last else ChainHead(first - 1, INITIAL_LINK)


def unlisted_sessions(db: apsw.Connection, importing_sessions: Collection[int]) -> list[int]:
    """Sessions that are to be swept and were never listed here, so that no fact tells yet that they may go: what came
    with an import, or of one that was cut off.
    """
    return [
        session
        for (session,) in db.execute(UNLISTED_SESSIONS, (json.dumps([*importing_sessions]), SESSIONS_EXPIRED_PREFIX))
    ]


def store_digests(db: apsw.Connection, offsets: list[int]) -> None:
    """Have the links of events tell what these were, in the transaction that throws these away.

    To be called before they are deleted, and their texts; where there are no links it does nothing.
    """
    for offset, session, seq, body in db.execute(EVENTS_TO_DELETE, (json.dumps(offsets),)).fetchall():
        assert isinstance(body, bytes)
        known = (session, seq, hash_body(body), offset)
        db.execute('UPDATE link SET session = ?, seq = ?, digest = ? WHERE "offset" = ?', known)
