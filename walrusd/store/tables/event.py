"""The log: events in the order of their offsets, and their links if there is a hash chain.

The longest text of an event is in the table `text`, once for all events that have it: an answer is in its message and
in the `done` of its turn, the calls of a round are in three events, and a file is in each result of reading it. The
detached text is the content of the longest JSON string, found in the raw bytes; the rest of the body is JSON, too.
"""

import hashlib
import re
from typing import NamedTuple

import apsw
from msgspec import Struct

from walrus_protocol.database.schema import DAEMON_SESSION, FULL_BODY, FULL_BODY_SIZE, SESSIONS_EXPIRED_PREFIX
from walrus_protocol.json import Decoder
from walrusd.store.tables.table import BatchStatement, BlobStatement, Table

MIN_BODY_BYTES = 4096
"""Minimum bytes of a body to detach a text from: a database page; a longer body takes extra pages."""
MIN_TEXT_BYTES = 2048
"""Minimum bytes of a string to detach: for a shorter one, a row and two digests save hardly anything."""
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
INSERT_TEXT = BlobStatement("INSERT INTO text (digest, body) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING")
INSERT_LINK = BatchStatement('INSERT INTO link ("offset", link) VALUES', 2)

TABLES = (Table(name="event"), Table(name="link"), Table(name="text"))

# Possessive quantifiers: with backtracking at each escape, 4 MiB of lines take half a second, without it 14 ms.
_STRING_CONTENT = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
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


class DetachedText(NamedTuple):
    """A body without its longest string, that string, and its position in the body.

    `schema.FULL_BODY` joins them in SQL.
    """

    rest: bytes
    position: int
    text: bytes

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.text).digest()


def detach(body: bytes) -> DetachedText | None:
    """Returns a body of MIN_BODY_BYTES or more with its longest string detached, or None if none is long enough."""
    start, end = max((found.span(1) for found in _STRING_CONTENT.finditer(body)), key=_span_length, default=(0, 0))
    return DetachedText(body[:start] + body[end:], start, body[start:end]) if end - start >= MIN_TEXT_BYTES else None


def _span_length(span: tuple[int, int]) -> int:
    start, end = span
    return end - start
