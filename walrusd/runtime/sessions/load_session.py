"""Loads a session from its log."""

from walrusd.runtime.errors import decode_event, session_not_found, unreadable_log
from walrusd.runtime.sessions.live_session import LiveSession, SessionDependencies
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.session.recovery import recovered_draft
from walrusd.session.session import Session
from walrusd.session.transitions import InvalidTransition
from walrusd.store.tables.idempotency_key import read_key


async def load_session(number: int, deps: SessionDependencies) -> LiveSession:
    """Returns the session with its inbox and draft. Raises Problem (session_not_found, storage_failed)."""
    snapshot = await deps.log.session_snapshot(number, PAGE_ROWS)
    if snapshot is None:
        raise session_not_found(number)
    session, size, rows = Session(number), 0, snapshot.rows
    while rows:
        for row in rows:
            try:
                session.apply(decode_event(number, row))
            except InvalidTransition as refused:
                raise unreadable_log(number, row.seq, refused) from refused
            size += len(row.body)
        since = rows[-1].seq
        rows = await deps.log.events(number, since, PAGE_ROWS) if since < snapshot.last_seq else []
    keys = {
        entry.key: await deps.log.read(read_key, number, entry.key) for entry in snapshot.inbox if entry.key is not None
    }
    live = LiveSession(session, deps, size)  # nothing fails from here on: it would have to be closed
    live.inbox.load(snapshot.inbox)
    if session.turn:
        live.recovered_draft = recovered_draft(session.turn, snapshot.draft)
    for position, entry in enumerate(live.inbox.entries, 1):
        handle = live.handles.by_place[entry.place] = TurnHandle(number)
        handle.mark_queued(position)
        if entry.key is not None and (key := keys[entry.key]):
            handle.digest = key.digest
            live.handles.by_key[entry.key] = handle
    return live
