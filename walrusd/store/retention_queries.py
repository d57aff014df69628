"""The read queries of retention: the space that the database takes, and what can be deleted."""

from typing import Literal

import apsw

from walrus_protocol.database.schema import FULL_BODY_SIZE
from walrus_protocol.json import BadJson
from walrusd.session import session_state
from walrusd.store.retention_contract import ClosedCursor, ClosedSession, OutputRef, SpaceUsage

CLOSED_SESSIONS = f"""
SELECT id, closed_at, outline, inherited, (
    SELECT ifnull(sum({FULL_BODY_SIZE}), 0) FROM event WHERE event.session = id AND seq > inherited
)
FROM (
    SELECT id, closed_at, outline, (SELECT ifnull(max(seq), 0) FROM fork WHERE parent = session.id) AS inherited
    FROM session WHERE closed_at < :before AND (closed_at, id) > (:closed_at, :session)
    ORDER BY closed_at, id LIMIT :limit
) ORDER BY closed_at, id
"""  # noqa: S608 - only our own text
OUTPUT_REFS = {
    "closed": """SELECT session.id, output.ref, length(output.body)
    FROM session CROSS JOIN output_of ON output_of.session = session.id CROSS JOIN output USING (ref)
    WHERE closed_at IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM output_of AS other LEFT JOIN session AS its ON its.id = other.session
        WHERE other.ref = output.ref AND its.closed_at IS NULL
    )
    ORDER BY closed_at, session.id, output_of.ref""",
    # Outputs of a session that is being imported are omitted: it has no row yet.
    "all": """SELECT output_of.session, output.ref, length(output.body)
    FROM output CROSS JOIN output_of USING (ref) WHERE EXISTS (SELECT 1 FROM session WHERE id = output_of.session)
    ORDER BY output.rowid, output_of.session""",
}


def space_usage(db: apsw.Connection) -> SpaceUsage:
    size, pages, free = (db.pragma(name) for name in ("page_size", "page_count", "freelist_count"))
    assert isinstance(size, int)
    assert isinstance(pages, int)
    assert isinstance(free, int)
    return SpaceUsage(used_bytes=(pages - free) * size, free_bytes=free * size)


def closed_sessions(
    db: apsw.Connection, before: float, after: ClosedCursor, target_bytes: int, limit: int
) -> list[ClosedSession]:
    found: list[ClosedSession] = []
    more = True
    while more and len(found) < limit:
        wanted = limit - len(found)
        bindings = {"before": before, "closed_at": after[0], "session": after[1], "limit": wanted}
        rows: list[tuple[int, float, bytes, int, int]] = list(db.execute(CLOSED_SESSIONS, bindings))
        for session, closed_at, row, inherited, size in rows:
            if target_bytes <= 0 and size:
                return found
            after = (closed_at, session)
            try:
                state = session_state.decode(row)
            except BadJson:
                continue  # an unreadable session is not deleted: a person may still recover it
            events = max(0, state.last_seq - inherited)
            found.append(
                ClosedSession(session=session, closed_at=closed_at, turns=state.turns, events=events, bytes=size)
            )
            target_bytes -= size
        more = len(rows) == wanted
    return found


def output_refs(db: apsw.Connection, scope: Literal["closed", "all"], target_bytes: int, limit: int) -> list[OutputRef]:
    found: list[OutputRef] = []
    counted: set[str] = set()
    for session, ref, size in db.execute(OUTPUT_REFS[scope]):
        new_bytes = 0 if ref in counted else size
        if len(found) == limit or (target_bytes <= 0 and new_bytes):
            break
        found.append(OutputRef(session=session, ref=ref, bytes=new_bytes))
        counted.add(ref)
        target_bytes -= new_bytes
    return found
