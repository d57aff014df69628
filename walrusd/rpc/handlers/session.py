"""Handlers of session.create, list, get, history, interrupt and close."""

from functools import partial

from walrus_protocol.methods import (
    CloseParams,
    CloseResult,
    CreateParams,
    CreateResult,
    History,
    HistoryParams,
    InterruptResult,
    ListParams,
    SessionInfo,
    SessionList,
    SessionParams,
)
from walrusd.rpc.handlers.pagination import count_fitting, parse_cursor
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes
from walrusd.runtime.runtime import Runtime
from walrusd.store.tables.session import SessionFilter


def routes(runtime: Runtime) -> Routes:
    return {
        "session.create": partial(create, runtime),
        "session.list": partial(list_sessions, runtime),
        "session.get": partial(get, runtime),
        "session.history": partial(history, runtime),
        "session.interrupt": partial(interrupt, runtime),
        "session.close": partial(close, runtime),
    }


async def create(runtime: Runtime, _: RequestContext, params: CreateParams) -> CreateResult:
    session = await runtime.create_session(params.agent, params.created_by, title=params.title, key=params.key)
    return CreateResult(session=session)


async def list_sessions(runtime: Runtime, _: RequestContext, params: ListParams) -> SessionList:
    session_filter = SessionFilter(
        agent=params.agent,
        state=params.state,
        include_closed=params.include_closed or params.state == "closed",
        before=None if params.cursor is None else parse_cursor(params.cursor),
        limit=params.limit + 1,
    )
    found = await runtime.sessions(session_filter)
    page = found[: count_fitting(found, params.limit)]
    return SessionList(sessions=tuple(page), cursor=str(page[-1].id) if len(found) > len(page) else None)


async def get(runtime: Runtime, _: RequestContext, params: SessionParams) -> SessionInfo:
    return await runtime.session(params.session)


async def history(runtime: Runtime, _: RequestContext, params: HistoryParams) -> History:
    """Returns a page of the messages as the model sees them, oldest first; at least one, if there is one."""
    messages = await runtime.fork_rewind.history(params.session)
    first = 0 if params.cursor is None else parse_cursor(params.cursor)
    last = first + count_fitting(messages[first : first + params.limit], params.limit)
    return History(messages=tuple(messages[first:last]), cursor=str(last) if last < len(messages) else None)


async def interrupt(runtime: Runtime, context: RequestContext, params: SessionParams) -> InterruptResult:
    async with context.serialized():
        return await runtime.interrupt(params.session, by=context.principal.by)


async def close(runtime: Runtime, context: RequestContext, params: CloseParams) -> CloseResult:
    async with context.serialized():
        closed = await runtime.close_session(params.session, force=params.force, by=context.principal.by)
    return CloseResult(closed=closed)
