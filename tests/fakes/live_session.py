"""The object of a session, for tests that look at it or record events of their own."""

from walrus_protocol.events import SessionCreated
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.sessions.session_cache import SessionCache


def live_session(runtime: Runtime, session: int) -> LiveSession:
    """Returns the session, which is in memory: it was used recently."""
    live = runtime.session_cache.find_live(session)
    assert live is not None
    return live


async def create_session(session_cache: SessionCache) -> LiveSession:
    """Returns a new session, which stays in memory: it is used."""
    live = session_cache.find_live(await session_cache.create(SessionCreated(agent="walrus")))
    assert live is not None
    return live
