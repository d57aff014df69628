"""What is asked of the tables. Every query is one step into SQLite where it can be (see `rows`), and none scans."""

from typing import get_args

import apsw
import msgspec

from walrus_protocol.content import State
from walrusd.session import outline
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline
from walrusd.store.coding import decode_draft, decode_queued
from walrusd.store.log import Filter, Queued, Sent, Span, Stored

# The page in two values: where each row lies, and all bodies end to end. `upto = size` lets the first row through.
EVENTS = """
WITH page AS (
    SELECT seq, "offset", length(body) AS size FROM event
    WHERE session = :session AND seq > :since ORDER BY seq LIMIT :limit
), sums AS (
    SELECT seq, "offset", size, sum(size) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS upto FROM page
)
SELECT
    '[' || group_concat('[' || seq || ',' || "offset" || ',' || size || ']', ',' ORDER BY seq) || ']',
    CAST(group_concat((SELECT body FROM event WHERE event."offset" = sums."offset"), '' ORDER BY seq) AS BLOB)
FROM sums WHERE upto <= :max_bytes OR upto = size
"""
OUTLINE = "SELECT outline FROM session WHERE id = ?"
QUEUE = "SELECT body FROM inbox WHERE session = ? ORDER BY place"
DRAFT = "SELECT body FROM draft WHERE session = ?"
SENT = "SELECT digest, turn FROM sent WHERE session = ? AND key = ?"
CREATED_WITH = "SELECT session, digest FROM created_with WHERE key = ?"
SPAN = "SELECT first_seq, last_seq FROM turn WHERE session = ? AND turn = ?"
UNFINISHED = "SELECT id FROM session WHERE in_turn UNION SELECT session FROM inbox ORDER BY 1"
OPEN_SESSIONS = "SELECT value FROM counter WHERE name = 'session_open'"

LAST_ID = 2**53
"""Above every id: they are at most 2^53 - 1, so that any JSON reader keeps them whole."""

_places = msgspec.json.Decoder(list[tuple[int, int, int]])


def events(db: apsw.Connection, session: int, since: int, limit: int, max_bytes: int) -> list[Stored]:
    page = {"session": session, "since": since, "limit": limit, "max_bytes": max_bytes}
    places: str | None
    bodies: bytes
    places, bodies = db.execute(EVENTS, page).get
    rows: list[Stored] = []
    start = 0
    for seq, offset, size in _places.decode(places or "[]"):
        rows.append(Stored(seq, offset, bodies[start : start + size]))
        start += size
    return rows


def one_outline(db: apsw.Connection, session: int) -> Outline | None:
    row: bytes | None = db.execute(OUTLINE, (session,)).get
    return None if row is None else outline.decode(row)


def outlines(db: apsw.Connection, wanted: Filter) -> list[tuple[Outline, int]]:
    text, bindings = listing(wanted)
    return [(outline.decode(row), queued) for row, queued in db.execute(text, bindings)]


def listing(wanted: Filter) -> tuple[str, dict[str, int | str]]:
    """A page of sessions: the newest of each state in question, from its index, and of these the newest.

    Closed sessions are left out, unless they are asked for by their state.
    """
    bindings: dict[str, int | str] = {
        "before": LAST_ID if wanted.before is None else wanted.before,
        "limit": wanted.limit,
    }
    given = ""
    if wanted.agent is not None:
        given = "agent = :agent AND"
        bindings["agent"] = wanted.agent
    arms = []
    for number, state in enumerate([wanted.state] if wanted.state else states(include_closed=wanted.include_closed)):
        bindings[f"state{number}"] = state
        arms.append(
            f"""SELECT * FROM (SELECT id FROM session WHERE {given} state = :state{number} AND id < :before
            ORDER BY id DESC LIMIT :limit)"""  # noqa: S608 - words of ours; what the caller wants is bound
        )
    return (
        f"""WITH newest (id) AS ({" UNION ALL ".join(arms)} ORDER BY id DESC LIMIT :limit)
        SELECT outline, (SELECT count(*) FROM inbox WHERE inbox.session = newest.id AND kind <> 'close')
        FROM newest CROSS JOIN session USING (id) ORDER BY newest.id DESC""",  # noqa: S608 - as above
        bindings,
    )


def states(*, include_closed: bool) -> list[str]:
    """As the session rows have them; empty is before the first event."""
    return ["", *(state for state in get_args(State) if include_closed or state != "closed")]


def queue(db: apsw.Connection, session: int) -> list[Queued]:
    return [decode_queued(row) for (row,) in db.execute(QUEUE, (session,))]


def draft(db: apsw.Connection, session: int) -> Draft | None:
    row: bytes | None = db.execute(DRAFT, (session,)).get
    return None if row is None else decode_draft(row)


def sent(db: apsw.Connection, session: int, key: str) -> Sent | None:
    row: tuple[bytes, int | None] | None = db.execute(SENT, (session, key)).fetchone()
    return None if row is None else Sent(key=key, digest=row[0], turn=row[1])


def created_with(db: apsw.Connection, key: str) -> tuple[int, bytes] | None:
    row: tuple[int, bytes] | None = db.execute(CREATED_WITH, (key,)).fetchone()
    return row


def span(db: apsw.Connection, session: int, turn: int) -> Span | None:
    row: tuple[int, int | None] | None = db.execute(SPAN, (session, turn)).fetchone()
    return None if row is None else Span(*row)


def unfinished(db: apsw.Connection) -> list[int]:
    return [session for (session,) in db.execute(UNFINISHED)]


def open_sessions(db: apsw.Connection) -> int:
    number: int = db.execute(OPEN_SESSIONS).get
    return number
