"""What is told of sessions: from memory where they are there, else from the rows that the store lists."""

from walrus_protocol.methods import ParentInfo, SessionInfo
from walrusd.runtime.sessions import Sessions
from walrusd.runtime.told import session_not_found
from walrusd.session.outline import Outline
from walrusd.store.log import Filter, Log


async def info(log: Log, sessions: Sessions, session: int) -> SessionInfo:
    """Raises Problem session_not_found."""
    if live := sessions.in_memory(session):
        return _told(live.session.outline, live.messages_queued)
    outline = await log.outline(session)
    if outline is None:
        raise session_not_found(session)
    queued = sum(entry.kind != "close" for entry in await log.queue(session))
    return _told(outline, queued)


async def infos(log: Log, wanted: Filter) -> list[SessionInfo]:
    """Newest first. Every row is as durable as its session's last event."""
    return [_told(outline, queued) for outline, queued in await log.outlines(wanted)]


def _told(outline: Outline, queued: int) -> SessionInfo:
    parent = outline.parent
    return SessionInfo(
        id=outline.id,
        agent=outline.agent,
        created_by=outline.created_by,
        title=outline.title,
        state=outline.state or "idle",
        queued=queued,
        messages=outline.messages,
        created_at=outline.created_at,
        updated_at=outline.updated_at,
        last_seq=outline.last_seq,
        parent=ParentInfo(session=parent.session, seq=parent.seq) if parent else None,
        usage=outline.usage,
        cost_usd=outline.cost_usd,
        error=outline.error,
    )
