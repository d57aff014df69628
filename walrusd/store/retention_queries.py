"""The read queries of retention: the space that the database takes, and what can be deleted."""

from typing import Literal

import apsw

from walrus_protocol.database.schema import FULL_BODY_SIZE
from walrus_protocol.json import BadJson
from walrusd.session import session_state
from walrusd.store.retention_contract import ClosedSession, Cursor, OutputRef, SpaceUsage

# Whether another session has the output, and is open or was closed later.
HAS_LATER_HOLDER = """EXISTS (
    SELECT 1 FROM output_of AS other LEFT JOIN session AS its ON its.id = other.session
    WHERE other.ref = output.ref
    AND (its.closed_at IS NULL OR (its.closed_at, its.id) > (session.closed_at, session.id))
)"""
CLOSED_SESSIONS = f"""
SELECT id, closed_at, outline, inherited,
    (SELECT ifnull(sum({FULL_BODY_SIZE}), 0) FROM event WHERE event.session = id AND seq > inherited),
    (SELECT count(*) FROM output_of JOIN output USING (ref) WHERE output_of.session = id AND NOT {HAS_LATER_HOLDER}),
    (SELECT ifnull(sum(length(body)), 0) FROM output_of JOIN output USING (ref)
        WHERE output_of.session = id AND NOT {HAS_LATER_HOLDER})
FROM (
    SELECT id, closed_at, outline, (SELECT ifnull(max(seq), 0) FROM fork WHERE parent = session.id) AS inherited
    FROM session WHERE closed_at < :before AND (closed_at, id) > (:position, :session)
    ORDER BY closed_at, id LIMIT :limit
) AS session ORDER BY closed_at, id
"""  # noqa: S608 - only our own text
HAS_OPEN_HOLDER = """EXISTS (
    SELECT 1 FROM output_of AS other LEFT JOIN session AS its ON its.id = other.session
    WHERE other.ref = output.ref AND its.closed_at IS NULL
)"""
OUTPUT_REFS = {
    "closed": f"""SELECT session.id, output.ref, length(output.body) * NOT {HAS_LATER_HOLDER}, closed_at
    FROM session CROSS JOIN output_of ON output_of.session = session.id CROSS JOIN output USING (ref)
    WHERE closed_at >= :position AND (closed_at, session.id, output_of.ref) > (:position, :session, :ref)
    AND NOT {HAS_OPEN_HOLDER}
    ORDER BY closed_at, session.id, output_of.ref LIMIT :limit""",  # noqa: S608 - only our own text
    # Outputs of a session that is being imported are omitted: it has no row yet.
    "open": f"""SELECT session.id, output.ref, length(output.body) * NOT EXISTS (
        SELECT 1 FROM output_of AS other JOIN session AS its ON its.id = other.session
        WHERE other.ref = output.ref AND its.id > session.id
    ), output.rowid
    FROM output CROSS JOIN output_of USING (ref) CROSS JOIN session ON session.id = output_of.session
    WHERE output.rowid >= :position AND (output.rowid, session.id) > (:position, :session) AND {HAS_OPEN_HOLDER}
    ORDER BY output.rowid, session.id LIMIT :limit""",  # noqa: S608 - only our own text
}


def space_usage(db: apsw.Connection) -> SpaceUsage:
    size, pages, free = (db.pragma(name) for name in ("page_size", "page_count", "freelist_count"))
    assert isinstance(size, int)
    assert isinstance(pages, int)
    assert isinstance(free, int)
    return SpaceUsage(used_bytes=(pages - free) * size, free_bytes=free * size)


def closed_sessions(db: apsw.Connection, before: float, after: Cursor, limit: int) -> list[ClosedSession]:
    found: list[ClosedSession] = []
    more = True
    while more and len(found) < limit:
        wanted = limit - len(found)
        bindings = {"before": before, **_bindings(after, wanted)}
        rows: list[tuple[int, float, bytes, int, int, int, int]] = list(db.execute(CLOSED_SESSIONS, bindings))
        for session, closed_at, row, inherited, size, last_outputs, last_output_bytes in rows:
            after = (closed_at, session, "")
            try:
                state = session_state.decode(row)
            except BadJson:
                continue  # an unreadable session is not deleted: a person may still recover it
            found.append(
                ClosedSession(
                    session=session,
                    closed_at=closed_at,
                    turns=state.turns,
                    events=max(0, state.last_seq - inherited),
                    bytes=size,
                    last_outputs=last_outputs,
                    last_output_bytes=last_output_bytes,
                )
            )
        more = len(rows) == wanted
    return found


def output_refs(db: apsw.Connection, scope: Literal["closed", "open"], after: Cursor, limit: int) -> list[OutputRef]:
    return [
        OutputRef(session=session, ref=ref, bytes=size, position=position)
        for session, ref, size, position in db.execute(OUTPUT_REFS[scope], _bindings(after, limit))
    ]


def _bindings(after: Cursor, limit: int) -> dict[str, float | int | str]:
    position, session, ref = after
    return {"position": position, "session": session, "ref": ref, "limit": limit}
