"""The log of all sessions in one order, that of offsets, as far as it is wanted.

A page looks at a stretch of offsets, not at so many hits: where nothing is wanted for long it ends empty, and says how
far it has come.
"""

import apsw
import msgspec

from walrus_protocol.json import BadJson, Decoder
from walrusd.store.contract import DAEMON_SESSION, MAX_SCANNED_ROWS, EventRow, StreamFilter, StreamPage
from walrusd.store.queries import FULL_BODY, FULL_BODY_SIZE

# Offsets begin with the next that there is: what was thrown away is passed over in one step.
SCAN_END = 'SELECT min(:upto, (SELECT min("offset") FROM event WHERE "offset" > :since) + :looked_at - 1)'
# Bodies begin with their type, `{"type":"done",`, whatever is kept beside them.
TYPE = """CAST(substr(event.body, 10, instr(substr(event.body, 10, 40), x'22') - 1) AS TEXT)"""
AGENT = f"""CASE event.session WHEN {DAEMON_SESSION}
    THEN iif(json_valid(CAST(event.body AS TEXT)), CAST(event.body AS TEXT) ->> '$.agent', NULL)
    ELSE (SELECT agent FROM session WHERE id = event.session) END"""  # noqa: S608 - words of ours
# The + keeps SQLite from the index of sessions, whose rows it would look at all of, page by page.
SESSION = "+event.session"
LISTED = f"(event.session = {DAEMON_SESSION} OR event.session IN (SELECT id FROM session))"  # noqa: S608 - words of ours

_row_positions = Decoder(list[tuple[int, int, int]])


class _EventHeader(msgspec.Struct):
    type: str = ""
    agent: str | None = None


_header_decoder = Decoder(_EventHeader)


def read_stream_page(
    db: apsw.Connection, stream_filter: StreamFilter, since: int, upto: int, limit: int, max_bytes: int
) -> StreamPage:
    end: int | None = db.execute(SCAN_END, {"since": since, "upto": upto, "looked_at": MAX_SCANNED_ROWS}).get
    if end is None or end <= since:
        return StreamPage([], upto)
    text, bindings = page_sql(stream_filter)
    bindings |= {"since": since, "end": end, "limit": limit, "max_bytes": max_bytes}
    found: int
    places: str | None
    bodies: bytes
    found, places, bodies = db.execute(text, bindings).get
    rows: list[EventRow] = []
    start = 0
    for seq, offset, size in _row_positions.decode(places or "[]"):
        rows.append(EventRow(seq, offset, bodies[start : start + size]))
        start += size
    cut_short = len(rows) == limit or len(rows) < found
    return StreamPage(rows, rows[-1].offset if cut_short else end)


def page_sql(stream_filter: StreamFilter) -> tuple[str, dict[str, int | str]]:
    """As `queries.EVENTS`, in two values, with what is wanted as conditions: each only where it is asked for."""
    given = {SESSION: stream_filter.sessions, AGENT: stream_filter.agents, TYPE: stream_filter.types}
    names = {column: f"in{number}" for number, column in enumerate(given)}
    conditions = [LISTED] + [
        f"{column} IN (SELECT value FROM json_each(:{names[column]}))"  # noqa: S608 - words of ours; lists are bound
        for column, values in given.items()
        if values is not None
    ]
    bindings: dict[str, int | str] = {
        names[column]: msgspec.json.encode(sorted(values, key=str)).decode()
        for column, values in given.items()
        if values is not None
    }
    return (
        f"""WITH page AS (
            SELECT iif(session = {DAEMON_SESSION}, 0, seq) AS seq, "offset", {FULL_BODY_SIZE} AS size FROM event
            WHERE "offset" > :since AND "offset" <= :end AND {" AND ".join(conditions)} ORDER BY "offset" LIMIT :limit
        ), sums AS (
            SELECT seq, "offset", size, sum(size) OVER (ORDER BY "offset" ROWS UNBOUNDED PRECEDING) AS upto,
                count(*) OVER () AS found FROM page
        )
        SELECT ifnull(max(found), 0),
            '[' || group_concat('[' || seq || ',' || "offset" || ',' || size || ']', ',' ORDER BY "offset") || ']',
            CAST(group_concat(
                (SELECT {FULL_BODY} FROM event WHERE event."offset" = sums."offset"), '' ORDER BY "offset"
            ) AS BLOB)
        FROM sums WHERE upto <= :max_bytes OR upto = size""",  # noqa: S608 - as above
        bindings,
    )


def event_type(body: bytes) -> str:
    """The type that a row begins with; "" of what is no event."""
    return _decode_header(body).type


def event_agent(body: bytes) -> str | None:
    """The agent that a fact of the daemon is about."""
    return _decode_header(body).agent


def _decode_header(body: bytes) -> _EventHeader:
    try:
        return _header_decoder.decode(body)
    except BadJson:
        return _EventHeader()
