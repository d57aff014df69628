"""The sessions: a row for each listed one (`session`), and the parent of each fork (`fork`)."""

from collections.abc import Sequence
from typing import Literal, Self, get_args

import apsw
from msgspec import Struct

from walrus_protocol.content import State, TurnError
from walrus_protocol.json import BadJson
from walrusd.session import session_state
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState
from walrusd.store.errors import unreadable_row
from walrusd.store.tables import remains
from walrusd.store.tables.draft import read_draft
from walrusd.store.tables.event import EventRow, read_events
from walrusd.store.tables.inbox import InboxEntry, read_inbox
from walrusd.store.tables.table import MAX_ID_PLUS_ONE, BatchStatement, Mutation, SqlRow, Table

SELECT = "SELECT outline FROM session WHERE id = ?"
SELECT_UNFINISHED = "SELECT id FROM session WHERE in_turn UNION SELECT session FROM inbox ORDER BY 1"
OPEN_SESSION_COUNT = "SELECT value FROM counter WHERE name = 'session_open'"
PUT = BatchStatement(
    "INSERT INTO session (id, agent, state, in_turn, outline, closed_at) VALUES",
    6,
    """ON CONFLICT (id) DO UPDATE SET agent = excluded.agent, state = excluded.state, in_turn = excluded.in_turn,
    outline = excluded.outline, closed_at = excluded.closed_at""",
)
INSERT_FORK = BatchStatement("INSERT INTO fork (child, parent, seq) VALUES", 3, "ON CONFLICT (child) DO NOTHING")


class SessionFilter(Struct, frozen=True, kw_only=True):
    """Selects the sessions to list, newest first; with `before`, only those with a smaller id."""

    agent: str | None = None
    state: State | None = None
    include_closed: bool = False
    before: int | None = None
    limit: int = 50


class SessionSnapshot(Struct, frozen=True, kw_only=True):
    """The stored rows from which a session is rebuilt.

    They are the first page of events, the last seq, the inbox and the draft.
    """

    rows: list[EventRow]
    last_seq: int
    inbox: list[InboxEntry]
    draft: Draft | None


class ListImported(Mutation, frozen=True, kw_only=True):
    """Lists an imported session whose rows are all written, with its forks as (child, parent, seq).

    A closed session counts as closed at `imported_at`, so that retention does not delete it right after its import.
    """

    session_state: SessionState
    forks: Sequence[tuple[int, int, int]]
    imported_at: float

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        imported = [change for _, change in changes]
        PUT.run(db, [_to_row(one.session_state, one.imported_at) for one in imported])
        INSERT_FORK.run(db, [fork for one in imported for fork in one.forks])
        remains.DELETE.run(db, [(one.session_state.id,) for one in imported])


TABLES = (
    Table(name="session", session_column="id", mutations=(ListImported,)),
    Table(name="fork", session_column="child", kept_while="has_events"),
    Table(name="counter"),
)


def put_states(db: apsw.Connection, states: Sequence[SessionState]) -> None:
    PUT.run(db, [_to_row(state, state.updated_at) for state in states])


def _to_row(state: SessionState, closing_time: float) -> SqlRow:
    closed_at = closing_time if state.state == "closed" else None
    return state.id, state.agent, state.state or "", state.turn is not None, session_state.encode(state), closed_at


def read_session_state(db: apsw.Connection, session: int) -> SessionState | None:
    row: bytes | None = db.execute(SELECT, (session,)).get
    try:
        return None if row is None else session_state.decode(row)
    except BadJson as error:
        raise unreadable_row("the row", session, error) from error


def read_snapshot(db: apsw.Connection, session: int, limit: int, max_bytes: int) -> SessionSnapshot | None:
    state = read_session_state(db, session)
    if state is None:
        return None
    return SessionSnapshot(
        rows=read_events(db, session, 0, limit, max_bytes),
        last_seq=state.last_seq,
        inbox=read_inbox(db, session),
        draft=read_draft(db, session),
    )


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


def read_unfinished_sessions(db: apsw.Connection) -> list[int]:
    """Returns the sessions with an open turn or a non-empty inbox."""
    return [session for (session,) in db.execute(SELECT_UNFINISHED)]


def read_open_session_count(db: apsw.Connection) -> int:
    """Returns the number of sessions that are not closed."""
    number: int = db.execute(OPEN_SESSION_COUNT).get
    return number
