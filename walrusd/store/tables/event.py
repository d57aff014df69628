"""The log: events in the order of their offsets. A long text of an event is in the table `text`."""

import apsw
from msgspec import Struct

from walrus_protocol.database.schema import DAEMON_SESSION, FULL_BODY, FULL_BODY_SIZE, SESSIONS_EXPIRED_PREFIX
from walrus_protocol.json import Decoder
from walrusd.store.tables.statements import BatchStatement
from walrusd.store.tables.table import Table

# A page is two values: the position of each row, and all bodies end to end. `upto = size` admits the first row always.
PAGE = f"""
WITH page AS (
    SELECT seq, "offset", {FULL_BODY_SIZE} AS size FROM event
    WHERE session = :session AND seq > :since ORDER BY seq LIMIT :limit
), sums AS (
    SELECT seq, "offset", size, sum(size) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS upto FROM page
)
SELECT
    '[' || group_concat('[' || seq || ',' || "offset" || ',' || size || ']', ',' ORDER BY seq) || ']',
    CAST(group_concat((SELECT {FULL_BODY} FROM event WHERE event."offset" = sums."offset"), '' ORDER BY seq) AS BLOB)
FROM sums WHERE upto <= :max_bytes OR upto = size
"""  # noqa: S608 - only our own text
# Events that record deleted sessions stay: they prove to `walrusctl verify` that walrusd deleted these.
OLD_DAEMON_EVENTS = f"""SELECT "offset" FROM event WHERE session = {DAEMON_SESSION} AND seq BETWEEN ? AND ?
AND substr(body, 1, {len(SESSIONS_EXPIRED_PREFIX)}) <> CAST('{SESSIONS_EXPIRED_PREFIX}' AS BLOB)"""  # noqa: S608 - own
DELETE = 'DELETE FROM event WHERE "offset" = ?'
INSERT = BatchStatement('INSERT INTO event ("offset", session, seq, body) VALUES', 4)
INSERT_WITH_TEXT = BatchStatement('INSERT INTO event ("offset", session, seq, body, text, at) VALUES', 6)
INSERT_LINK = BatchStatement('INSERT INTO link ("offset", link) VALUES', 2)

TABLES = (Table(name="event"), Table(name="link"))

_row_positions = Decoder(list[tuple[int, int, int]])


class EventRow(Struct, frozen=True):
    """A row of the log. `body` is the event's JSON without seq and offset."""

    seq: int
    offset: int
    body: bytes


def read_events(db: apsw.Connection, session: int, since: int, limit: int, max_bytes: int) -> list[EventRow]:
    page = {"session": session, "since": since, "limit": limit, "max_bytes": max_bytes}
    positions: str | None
    bodies: bytes
    positions, bodies = db.execute(PAGE, page).get
    return split_page(positions, bodies)


def split_page(positions: str | None, bodies: bytes) -> list[EventRow]:
    """Returns the rows of a page: `positions` is a JSON list of (seq, offset, size), `bodies` are end to end."""
    rows: list[EventRow] = []
    start = 0
    for seq, offset, size in _row_positions.decode(positions or "[]"):
        rows.append(EventRow(seq, offset, bodies[start : start + size]))
        start += size
    return rows
