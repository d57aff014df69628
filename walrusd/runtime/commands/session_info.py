"""Descriptions of sessions, from memory if they are loaded, else from their rows in the store."""

from walrus_protocol.methods import ParentInfo, SessionInfo
from walrusd.runtime.errors import attach_to_storage_errors, session_not_found
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log
from walrusd.store.tables.inbox import read_inbox
from walrusd.store.tables.session import SessionFilter


async def get_session_info(log: Log, session_cache: SessionCache, session: int) -> SessionInfo:
    """Returns the description of one session. Raises Problem session_not_found."""
    if live := session_cache.find_live(session):
        return _to_session_info(live.session.state, live.inbox.message_count)
    with attach_to_storage_errors(session=session):
        state = await log.session_state(session)
        if state is None:
            raise session_not_found(session)
        queued = sum(entry.kind != "close" for entry in await log.read(read_inbox, session))
    return _to_session_info(state, queued)


async def list_session_infos(log: Log, session_filter: SessionFilter) -> list[SessionInfo]:
    """Returns the descriptions, newest first. Each row is written together with its session's last event."""
    return [_to_session_info(state, queued) for state, queued in await log.list_sessions(session_filter)]


def _to_session_info(session_state: SessionState, queued_messages: int) -> SessionInfo:
    parent = session_state.parent
    return SessionInfo(
        id=session_state.id,
        agent=session_state.agent,
        created_by=session_state.created_by,
        title=session_state.title,
        state=session_state.state or "idle",
        queued=queued_messages,
        messages=session_state.messages,
        created_at=session_state.created_at,
        updated_at=session_state.updated_at,
        last_seq=session_state.last_seq,
        parent=ParentInfo(session=parent.session, seq=parent.seq) if parent else None,
        usage=session_state.usage,
        cost_usd=session_state.cost_usd,
        error=session_state.error,
    )
