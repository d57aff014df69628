"""session.create, list, get, history, interrupt and close."""

from collections.abc import Sequence

from msgspec import json

from walrus_protocol.content import Message
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
from walrus_protocol.problems import Problem
from walrusd.rpc.call import Call
from walrusd.store.log import Filter

MOST_BYTES = 1024 * 1024
"""Of messages on one page: results over 1 MiB are paged."""


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
        before=None if params.cursor is None else _position(params.cursor),
        limit=params.limit + 1,
    )
    found = await call.house.runtime.sessions(wanted)
    page = found[: _fitting(found, params.limit)]
    return SessionList(sessions=tuple(page), cursor=str(page[-1].id) if len(found) > len(page) else None)


async def get(call: Call, params: SessionParams) -> SessionInfo:
    return await call.house.runtime.session(params.session)


async def history(call: Call, params: HistoryParams) -> History:
    """A page of the messages as the model sees them, oldest first: at least one where there is one."""
    live = await call.house.runtime.live(params.session)
    messages = live.session.history.messages
    first = 0 if params.cursor is None else _position(params.cursor)
    last = first + _fitting(messages[first : first + params.limit], params.limit)
    return History(messages=tuple(messages[first:last]), cursor=str(last) if last < len(messages) else None)


async def interrupt(call: Call, params: SessionParams) -> Interrupted:
    async with call.in_order():
        return await call.house.runtime.interrupt(params.session, by="client")


async def close(call: Call, params: CloseParams) -> Closed:
    async with call.in_order():
        closed = await call.house.runtime.close_session(params.session, force=params.force, by="client")
    return Closed(closed=closed)


def _fitting(items: Sequence[Message | SessionInfo], limit: int) -> int:
    """How many of them make one page: at least one where there is one."""
    size = 0
    for count, item in enumerate(items[:limit]):
        size += len(json.encode(item))
        if size > MOST_BYTES and count:
            return count
    return min(len(items), limit)


def _position(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
        raise Problem("invalid_params", f"cursor: {cursor[:40]!r} is none of ours", "Pass a cursor as it was given.")
    return int(cursor)
