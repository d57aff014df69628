"""session.create, list, get, history, interrupt and close."""

from walrus_protocol.methods import (
    Closed,
    CloseParams,
    Created,
    CreateParams,
    History,
    HistoryParams,
    Interrupted,
    ListParams,
    SessionInfo,
    SessionList,
    SessionParams,
)
from walrusd.rpc.call import Call
from walrusd.rpc.handlers.paging import fitting, position
from walrusd.store.log import Filter


async def create(call: Call, params: CreateParams) -> Created:
    session = await call.house.runtime.create_session(
        params.agent, params.created_by, title=params.title, key=params.key
    )
    return Created(session=session)


async def list_sessions(call: Call, params: ListParams) -> SessionList:
    wanted = Filter(
        agent=params.agent,
        state=params.state,
        include_closed=params.include_closed or params.state == "closed",
        before=None if params.cursor is None else position(params.cursor),
        limit=params.limit + 1,
    )
    found = await call.house.runtime.sessions(wanted)
    page = found[: fitting(found, params.limit)]
    return SessionList(sessions=tuple(page), cursor=str(page[-1].id) if len(found) > len(page) else None)


async def get(call: Call, params: SessionParams) -> SessionInfo:
    return await call.house.runtime.session(params.session)


async def history(call: Call, params: HistoryParams) -> History:
    """A page of the messages as the model sees them, oldest first: at least one where there is one."""
    messages = await call.house.runtime.branches.history(params.session)
    first = 0 if params.cursor is None else position(params.cursor)
    last = first + fitting(messages[first : first + params.limit], params.limit)
    return History(messages=tuple(messages[first:last]), cursor=str(last) if last < len(messages) else None)


async def interrupt(call: Call, params: SessionParams) -> Interrupted:
    async with call.in_order():
        return await call.house.runtime.interrupt(params.session, by="client")


async def close(call: Call, params: CloseParams) -> Closed:
    async with call.in_order():
        closed = await call.house.runtime.close_session(params.session, force=params.force, by="client")
    return Closed(closed=closed)
