"""The handler of session.search: full-text search in the messages of all sessions."""

from functools import partial

from walrus_protocol.methods.search import Hits, SearchParams
from walrus_protocol.problems import Problem
from walrusd.rpc.handlers.pagination import count_fitting, parse_cursor
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes
from walrusd.store.contract import Log
from walrusd.store.search import query_terms


def routes(store: Log) -> Routes:
    return {"session.search": partial(search, store)}


async def search(store: Log, _: RequestContext, params: SearchParams) -> Hits:
    if not query_terms(params.query):
        raise Problem(
            "invalid_params",
            f"query: {params.query[:40]!r} contains no word",
            "A word consists of letters and digits; other characters are not searched.",
        )
    before = None if params.cursor is None else parse_cursor(params.cursor)
    found = await store.search(params.query, before=before, limit=params.limit + 1)
    page = found[: count_fitting(found, params.limit)]
    return Hits(hits=tuple(page), cursor=str(page[-1].offset) if len(found) > len(page) else None)
