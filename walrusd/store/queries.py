"""The read queries of the SQLite store.

A query is a single step into SQLite if possible (see `write_batch`), and none scans a table.
"""

from typing import Literal, get_args

import apsw

from walrus_protocol.content import State, TurnError
from walrus_protocol.database.schema import FULL_BODY, FULL_BODY_SIZE
from walrus_protocol.events import Tick
from walrus_protocol.json import BadJson, Decoder
from walrusd.session import session_state
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState
from walrusd.store.contract import (
    DAEMON_SESSION,
    EventRow,
    IdempotencyKey,
    InboxEntry,
    ScheduleRow,
    SessionFilter,
    SessionSnapshot,
    TurnSpan,
)
from walrusd.store.errors import unreadable_row
from walrusd.store.row_codecs import decode_draft, decode_inbox_entry, decode_schedule, decode_tick

# A page is two values: the position of each row, and all bodies end to end. `upto = size` admits the first row always.
EVENTS = f"""
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
SESSION_STATE = "SELECT outline FROM session WHERE id = ?"
INBOX = "SELECT body FROM inbox WHERE session = ? ORDER BY place"
DRAFT = "SELECT body FROM draft WHERE session = ?"
IDEMPOTENCY_KEY = "SELECT digest, turn FROM sent WHERE session = ? AND key = ?"
SESSION_CREATED_WITH = "SELECT session, digest FROM created_with WHERE key = ?"
TURN_SPAN = "SELECT first_seq, last_seq FROM turn WHERE session = ? AND turn = ?"
UNFINISHED_SESSIONS = "SELECT id FROM session WHERE in_turn UNION SELECT session FROM inbox ORDER BY 1"
OPEN_SESSION_COUNT = "SELECT value FROM counter WHERE name = 'session_open'"
# SQLite's substr of an empty blob is null.
OUTPUT = """SELECT ifnull(substr(body, :offset + 1, :limit), x'') FROM output
WHERE ref = :ref AND EXISTS (SELECT 1 FROM output_of WHERE session = :session AND ref = :ref)"""
SCHEDULES = "SELECT body FROM schedule ORDER BY name"
RUNNING_TICKS = "SELECT body FROM tick WHERE running ORDER BY tick DESC"
LAST_TICK_AND_SEQ = "SELECT (SELECT max(tick) FROM tick), (SELECT max(seq) FROM event WHERE session = ?)"

MAX_ID_PLUS_ONE = 2**53
"""A number above every id: ids are at most 2^53 - 1, which every JSON reader represents exactly."""

_row_positions = Decoder(list[tuple[int, int, int]])


def events(db: apsw.Connection, session: int, since: int, limit: int, max_bytes: int) -> list[EventRow]:
    page = {"session": session, "since": since, "limit": limit, "max_bytes": max_bytes}
    positions: str | None
    bodies: bytes
    positions, bodies = db.execute(EVENTS, page).get
    rows: list[EventRow] = []
    start = 0
    for seq, offset, size in _row_positions.decode(positions or "[]"):
        rows.append(EventRow(seq, offset, bodies[start : start + size]))
        start += size
    return rows


def session_snapshot(db: apsw.Connection, session: int, limit: int, max_bytes: int) -> SessionSnapshot | None:
    row = read_session_state(db, session)
    if row is None:
        return None
    rows = events(db, session, 0, limit, max_bytes)
    return SessionSnapshot(rows=rows, last_seq=row.last_seq, inbox=inbox(db, session), draft=draft(db, session))


def read_session_state(db: apsw.Connection, session: int) -> SessionState | None:
    row: bytes | None = db.execute(SESSION_STATE, (session,)).get
    try:
        return None if row is None else session_state.decode(row)
    except BadJson as error:
        raise unreadable_row("the row", session, error) from error


def list_sessions(db: apsw.Connection, session_filter: SessionFilter) -> list[tuple[SessionState, int]]:
    text, bindings = list_sessions_sql(session_filter)
    return [
        (_session_state_or_error(row, session, agent, state), queued)
        for session, agent, state, row, queued in db.execute(text, bindings)
    ]


def _session_state_or_error(row: bytes, session: int, agent: str, state: State | Literal[""]) -> SessionState:
    """Returns the session state; if it cannot be decoded, one made of the other columns and the error."""
    try:
        return session_state.decode(row)
    except BadJson as error:
        failure = unreadable_row("the row", session, error)
        reason = TurnError("storage", str(failure), failure.hint)
        return SessionState(id=session, agent=agent, state=state or None, error=reason)


def list_sessions_sql(session_filter: SessionFilter) -> tuple[str, dict[str, int | str]]:
    """Returns the query of a page of sessions and its bindings.

    It takes the newest sessions of each selected state from the index, and of these the newest. Closed sessions are
    omitted unless the filter includes them.
    """
    bindings: dict[str, int | str] = {
        "before": MAX_ID_PLUS_ONE if session_filter.before is None else session_filter.before,
        "limit": session_filter.limit,
    }
    condition = ""
    if session_filter.agent is not None:
        condition = "agent = :agent AND"
        bindings["agent"] = session_filter.agent
    arms = []
    for number, state in enumerate(
        [session_filter.state] if session_filter.state else listed_states(include_closed=session_filter.include_closed)
    ):
        bindings[f"state{number}"] = state
        arms.append(
            f"""SELECT * FROM (SELECT id FROM session WHERE {condition} state = :state{number} AND id < :before
            ORDER BY id DESC LIMIT :limit)"""  # noqa: S608 - only our own text; the filter's values are bound
        )
    return (
        f"""WITH newest (id) AS ({" UNION ALL ".join(arms)} ORDER BY id DESC LIMIT :limit)
        SELECT id, agent, state, outline,
            (SELECT count(*) FROM inbox WHERE inbox.session = newest.id AND kind <> 'close')
        FROM newest CROSS JOIN session USING (id) ORDER BY newest.id DESC""",  # noqa: S608 - as above
        bindings,
    )


def listed_states(*, include_closed: bool) -> list[str]:
    """Returns the values of the state column to list; "" is the state before the first event."""
    return ["", *(state for state in get_args(State) if include_closed or state != "closed")]


def inbox(db: apsw.Connection, session: int) -> list[InboxEntry]:
    try:
        return [decode_inbox_entry(row) for (row,) in db.execute(INBOX, (session,))]
    except BadJson as error:
        raise unreadable_row("a queued message", session, error) from error


def draft(db: apsw.Connection, session: int) -> Draft | None:
    row: bytes | None = db.execute(DRAFT, (session,)).get
    return None if row is None else decode_draft(row)


def idempotency_key(db: apsw.Connection, session: int, key: str) -> IdempotencyKey | None:
    row: tuple[bytes, int | None] | None = db.execute(IDEMPOTENCY_KEY, (session, key)).fetchone()
    return None if row is None else IdempotencyKey(key=key, digest=row[0], turn=row[1])


def session_created_with(db: apsw.Connection, key: str) -> tuple[int, bytes] | None:
    row: tuple[int, bytes] | None = db.execute(SESSION_CREATED_WITH, (key,)).fetchone()
    return row


def turn_span(db: apsw.Connection, session: int, turn: int) -> TurnSpan | None:
    row: tuple[int, int | None] | None = db.execute(TURN_SPAN, (session, turn)).fetchone()
    return None if row is None else TurnSpan(*row)


def unfinished_sessions(db: apsw.Connection) -> list[int]:
    return [session for (session,) in db.execute(UNFINISHED_SESSIONS)]


def open_session_count(db: apsw.Connection) -> int:
    number: int = db.execute(OPEN_SESSION_COUNT).get
    return number


def output(db: apsw.Connection, session: int, ref: str, offset: int, limit: int) -> bytes | None:
    piece: bytes | None = db.execute(OUTPUT, {"session": session, "ref": ref, "offset": offset, "limit": limit}).get
    return piece


def schedules(db: apsw.Connection) -> list[ScheduleRow]:
    return [decode_schedule(row) for (row,) in db.execute(SCHEDULES)]


def ticks(db: apsw.Connection, schedule: str | None, *, before: int | None, news: bool, limit: int) -> list[Tick]:
    page = {"schedule": schedule, "before": MAX_ID_PLUS_ONE if before is None else before, "limit": limit}
    return [decode_tick(row) for (row,) in db.execute(ticks_sql(one_schedule=schedule is not None, news=news), page)]


def ticks_sql(*, one_schedule: bool, news: bool) -> str:
    """Returns the query of a page of the ledger; each of the four variants has an index of its own."""
    conditions = ("schedule = :schedule AND " if one_schedule else "") + ("news AND " if news else "")
    return f"SELECT body FROM tick WHERE {conditions}tick < :before ORDER BY tick DESC LIMIT :limit"  # noqa: S608 - only our own text


def running_ticks(db: apsw.Connection) -> list[Tick]:
    return [decode_tick(row) for (row,) in db.execute(RUNNING_TICKS)]


def last_tick_and_seq(db: apsw.Connection) -> tuple[int, int]:
    tick: int | None
    seq: int | None
    tick, seq = db.execute(LAST_TICK_AND_SEQ, (DAEMON_SESSION,)).get
    return tick or 0, seq or 0
