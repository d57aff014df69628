"""Tests of session.search over the wire: hits of all sessions, pages, and invalid queries."""

from uuid import uuid4

import pytest

from tests.rpc.raw_client import RawClient
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.client import RequestFailed
from walrus_protocol.methods import CloseParams, CreateParams, SendParams
from walrus_protocol.methods.search import Hit, Hits, SearchParams


@pytest.fixture
def unique_word() -> str:
    """Returns a word that no other test sends."""
    return f"w{uuid4().hex}"


async def send_texts(client: AsyncClient, *texts: str) -> int:
    """Sends texts to a new session of the echo agent; returns the session."""
    session = (await client.create(CreateParams(agent="echo"))).session
    for text in texts:
        await client.send(SendParams(session=session, content=text))
    return session


async def test_a_message_is_found_as_soon_as_it_is_answered(client: AsyncClient, unique_word: str) -> None:
    session = await send_texts(client, f"The {unique_word}, it sleeps")
    answer = await client.search(SearchParams(query=f"{unique_word.upper()} sleep*"))
    assert [(hit.session, hit.seq, hit.agent, hit.role) for hit in answer.hits] == [
        (session, 3, "echo", "assistant"),
        (session, 2, "echo", "user"),
    ]
    assert answer.cursor is None
    for hit in answer.hits:
        assert hit.snippet == f"The {unique_word}, it sleeps"
        assert [hit.snippet[mark.start : mark.end] for mark in hit.marks] == [unique_word, "sleeps"]


async def test_closed_sessions_are_searched_too(client: AsyncClient, unique_word: str) -> None:
    session = await send_texts(client, unique_word)
    await client.close(CloseParams(session=session))
    assert [hit.session for hit in (await client.search(SearchParams(query=unique_word))).hits] == [session, session]


async def test_hits_are_paged_newest_first_whatever_is_sent_meanwhile(client: AsyncClient, unique_word: str) -> None:
    sessions = [await send_texts(client, f"{unique_word} {number}") for number in range(3)]
    all_hits = (await client.search(SearchParams(query=unique_word))).hits
    assert [(hit.session, hit.seq) for hit in all_hits] == [(s, seq) for s in reversed(sessions) for seq in (3, 2)]
    found: list[Hit] = []
    page = await client.search(SearchParams(query=unique_word, limit=4))
    found += page.hits
    await send_texts(client, unique_word)
    while page.cursor is not None:
        page = await client.search(SearchParams(query=unique_word, limit=1, cursor=page.cursor))
        found += page.hits
    assert tuple(found) == all_hits


async def test_a_search_without_hits_returns_an_empty_page(client: AsyncClient, unique_word: str) -> None:
    assert await client.search(SearchParams(query=unique_word)) == Hits(hits=())


async def test_the_snippet_of_a_long_text_is_short(client: AsyncClient, unique_word: str) -> None:
    await send_texts(client, *(f"{unique_word} " + "\x7f" * 9000 for _ in range(3)))
    answer = await client.search(SearchParams(query=unique_word, limit=500))
    assert len(answer.hits) == 6
    assert all(len(hit.snippet) <= 242 for hit in answer.hits)


@pytest.mark.parametrize("query", ["", "  ", "?!", '"', "*", "🦭", "\x00"])
async def test_a_query_without_a_word_is_refused_with_a_hint(client: AsyncClient, query: str) -> None:
    with pytest.raises(RequestFailed) as refused:
        await client.search(SearchParams(query=query))
    assert (refused.value.kind, refused.value.code) == ("invalid_params", -32602)
    assert refused.value.message.startswith("query: ")
    assert refused.value.message.endswith(" contains no word")
    assert refused.value.hint


async def test_invalid_search_params_are_refused(raw_client: RawClient) -> None:
    for params in ({"query": "a" * 1025}, {"query": "a", "cursor": "x"}, {"query": "a", "limit": 501}, {}):
        error = (await raw_client.call("session.search", params))["error"]
        assert (error["code"], error["data"]["kind"]) == (-32602, "invalid_params")
