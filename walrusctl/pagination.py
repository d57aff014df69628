"""Fetches a list that walrusd returns in pages, and joins the pages."""

from walrus_protocol.client import Json
from walrusctl.context import CliContext

_PAGE_SIZE = 500
"""Maximum items of one page; walrusd allows no more."""


def fetch_pages(
    ctx: CliContext, method: str, items_key: str, params: Json, limit: int | None
) -> tuple[list[Json], str | None]:
    """Returns the first `limit` items of a paged list (None: all), and the cursor of the rest or None."""
    items: list[Json] = []
    cursor: str | None = None
    with ctx.connect() as client:
        while limit is None or len(items) < limit:
            page = _PAGE_SIZE if limit is None else min(_PAGE_SIZE, limit - len(items))
            answer = client.call(method, {**params, "limit": page, "cursor": cursor})
            items += answer[items_key]
            cursor = answer["cursor"]
            if cursor is None:
                break
    return items, cursor
