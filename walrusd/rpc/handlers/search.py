"""session.search: what was said, in whichever session."""

from walrus_protocol.problems import Problem
from walrus_protocol.searching import Hits, SearchParams
from walrusd.rpc.call import Call
from walrusd.rpc.handlers.paging import fitting, position
from walrusd.store.words import terms


async def search(call: Call, params: SearchParams) -> Hits:
    if not terms(params.query):
        raise Problem(
            "invalid_params",
            f"query: there is no word in {params.query[:40]!r}",
            "Words are of letters and digits; other signs are not searched for.",
        )
    before = None if params.cursor is None else position(params.cursor)
    found = await call.house.runtime.log.search(params.query, before=before, limit=params.limit + 1)
    page = found[: fitting(found, params.limit)]
    return Hits(hits=tuple(page), cursor=str(page[-1].offset) if len(found) > len(page) else None)
