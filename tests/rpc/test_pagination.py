"""Tests of paginated lists and histories: nothing twice, nothing missing, and no page over its limits."""

from msgspec import json
from msgspec.structs import replace

from tests.fakes.provider import FakeProvider, replies
from tests.rpc.raw_client import RawClient
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.content import User
from walrus_protocol.methods import (
    CloseParams,
    CreateParams,
    HistoryParams,
    ListParams,
    SendParams,
    SessionParams,
    TurnResult,
)
from walrusd.rpc.handlers.pagination import MAX_PAGE_BYTES

AGENT = "lost"
"""The name of an agent whose sessions only these tests list."""


async def create_session(client: AsyncClient, agent: str) -> int:
    return (await client.create(CreateParams(agent=agent))).session


async def list_pages(client: AsyncClient, params: ListParams) -> list[list[int]]:
    """Returns the session ids of each page."""
    pages = []
    while True:
        page = await client.sessions(params)
        pages.append([session.id for session in page.sessions])
        if page.cursor is None:
            return pages
        params = replace(params, cursor=page.cursor)


async def test_sessions_are_listed_newest_first_page_by_page(client: AsyncClient) -> None:
    sessions = [await create_session(client, AGENT) for _ in range(7)]
    for session in sessions[1:3]:
        await client.close(CloseParams(session=session))
    open_sessions = [session for session in reversed(sessions) if session not in sessions[1:3]]
    assert await list_pages(client, ListParams(agent=AGENT, limit=2)) == [
        open_sessions[:2],
        open_sessions[2:4],
        open_sessions[4:],
    ]
    assert await list_pages(client, ListParams(agent=AGENT, limit=5)) == [open_sessions]
    all_sessions = [*reversed(sessions)]
    assert await list_pages(client, ListParams(agent=AGENT, include_closed=True)) == [all_sessions]
    assert await list_pages(client, ListParams(agent=AGENT, state="closed")) == [[sessions[2], sessions[1]]]
    assert await list_pages(client, ListParams(agent=AGENT, state="processing")) == [[]]


async def test_a_session_created_while_a_list_is_read_is_not_on_later_pages(client: AsyncClient) -> None:
    sessions = [await create_session(client, "echo") for _ in range(3)]
    first = await client.sessions(ListParams(agent="echo", limit=1))
    await create_session(client, "echo")
    second = await client.sessions(ListParams(agent="echo", limit=1, cursor=first.cursor))
    assert [session.id for page in (first, second) for session in page.sessions] == [sessions[2], sessions[1]]


async def test_a_limit_over_five_hundred_or_under_one_is_refused(raw_client: RawClient) -> None:
    for limit in (501, 0, -1, 1.5, "9"):
        error = (await raw_client.call("session.list", {"limit": limit}))["error"]
        assert (error["code"], error["data"]["kind"]) == (-32602, "invalid_params")
        assert "limit" in error["message"]


async def test_an_invalid_cursor_is_refused(raw_client: RawClient, client: AsyncClient) -> None:
    session = await create_session(client, "echo")
    for cursor in ("next", "-1", "", "9" * 40, "\u0661"):
        for method, params in (("session.list", {}), ("session.history", {"session": session})):
            error = (await raw_client.call(method, {**params, "cursor": cursor}))["error"]
            assert (error["code"], error["data"]["kind"]) == (-32602, "invalid_params")
            assert "cursor" in error["message"]


async def test_a_history_is_read_oldest_first_page_by_page(client: AsyncClient) -> None:
    session = await create_session(client, "echo")
    for number in range(5):
        await client.send(SendParams(session=session, content=f"message {number}"))
    whole = await client.history(HistoryParams(session=session, limit=500))
    assert whole.messages[::2] == tuple(User(f"message {number}") for number in range(5))
    pages, cursor = [], None
    while True:
        page = await client.history(HistoryParams(session=session, limit=3, cursor=cursor))
        pages.append(page.messages)
        if (cursor := page.cursor) is None:
            break
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    assert tuple(message for page in pages for message in page) == whole.messages


async def test_a_page_of_history_ends_before_a_mebibyte_but_is_never_empty(
    client: AsyncClient, provider: FakeProvider
) -> None:
    session = await create_session(client, "fake")
    provider.set_default(replies("ok"))
    sizes = [400_000, 400_000, 400_000, 3_000_000, 10]
    for size in sizes:
        await client.send(SendParams(session=session, content="x" * size))
    pages, cursor = [], None
    while True:
        page = await client.history(HistoryParams(session=session, cursor=cursor))
        pages.append(page.messages)
        if (cursor := page.cursor) is None:
            break
    assert [len(page) for page in pages] == [4, 2, 1, 3]
    assert all(len(json.encode(page)) <= MAX_PAGE_BYTES or len(page) == 1 for page in pages)


async def test_a_session_reports_the_total_cost_of_its_turns(client: AsyncClient, provider: FakeProvider) -> None:
    session = await create_session(client, "fake")
    provider.set_default(replies("ok"))
    turns: list[TurnResult] = [await client.send(SendParams(session=session, content="hi")) for _ in range(2)]
    assert [turn.cost_usd for turn in turns] == [20e-6, 20e-6]
    shown = await client.session(SessionParams(session=session))
    assert (shown.cost_usd, shown.usage.input, shown.usage.output) == (40e-6, 20, 10)
