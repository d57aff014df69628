"""Reads pages of the global stream: the events of all sessions in the order of offsets, filtered.

A page scans a limited range of offsets, not until it has enough hits. If nothing in the range matches, it is empty and
reports how far it got.
"""

import apsw
import msgspec

from walrus_protocol.database.schema import DAEMON_SESSION, FULL_BODY, FULL_BODY_SIZE
from walrusd.store.contract import MAX_SCANNED_ROWS, StreamFilter, StreamPage
from walrusd.store.tables.event import split_page

# The range begins with the next existing offset: deleted events are skipped in one step.
SCAN_END = 'SELECT min(:upto, (SELECT min("offset") FROM event WHERE "offset" > :since) + :max_rows - 1)'
# Bodies begin with their type, `{"type":"done",`, even if a long text is stored apart from them.
TYPE = """CAST(substr(event.body, 10, instr(substr(event.body, 10, 40), x'22') - 1) AS TEXT)"""
AGENT = f"""CASE event.session WHEN {DAEMON_SESSION}
    THEN iif(json_valid(CAST(event.body AS TEXT)), CAST(event.body AS TEXT) ->> '$.agent', NULL)
    ELSE (SELECT agent FROM session WHERE id = event.session) END"""  # noqa: S608 - only our own text
# The + keeps SQLite from using the index of sessions: it would scan all rows of these for every page.
SESSION = "+event.session"
LISTED = f"(event.session = {DAEMON_SESSION} OR event.session IN (SELECT id FROM session))"  # noqa: S608 - only our own text


def read_stream_page(
    db: apsw.Connection, stream_filter: StreamFilter, since: int, upto: int, limit: int, max_bytes: int
) -> StreamPage:
    """Returns rows with since < offset <= upto that match, as `Log.stream_page` describes."""
    end: int | None = db.execute(SCAN_END, {"since": since, "upto": upto, "max_rows": MAX_SCANNED_ROWS}).get
    if end is None or end <= since:
        return StreamPage([], upto)
    text, bindings = page_sql(stream_filter)
    bindings |= {"since": since, "end": end, "limit": limit, "max_bytes": max_bytes}
    found: int
    positions: str | None
    bodies: bytes
    found, positions, bodies = db.execute(text, bindings).get
    rows = split_page(positions, bodies)
    cut_short = len(rows) == limit or len(rows) < found
    return StreamPage(rows, rows[-1].offset if cut_short else end)


def page_sql(stream_filter: StreamFilter) -> tuple[str, dict[str, int | str]]:
    """Returns the query of a page and its bindings.

    Its result has the number of rows that matched, and then the two columns of `event.PAGE`.
    Only the filters that are set become conditions.
    """
    allowed = {SESSION: stream_filter.sessions, AGENT: stream_filter.agents, TYPE: stream_filter.types}
    names = {column: f"in{number}" for number, column in enumerate(allowed)}
    conditions = [LISTED] + [
        f"{column} IN (SELECT value FROM json_each(:{names[column]}))"  # noqa: S608 - only our own text; lists are bound
        for column, values in allowed.items()
        if values is not None
    ]
    bindings: dict[str, int | str] = {
        names[column]: msgspec.json.encode(sorted(values, key=str)).decode()
        for column, values in allowed.items()
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
