"""Lists that come in pages, put together."""

from walrus_protocol.client import Json
from walrusctl.context import CliContext

_PAGE_SIZE = 500
"""The most that one page of a list holds."""


def fetch_pages(
    ctx: CliContext, method: str, items_key: str, params: Json, limit: int | None
) -> tuple[list[Json], str | None]:
    """The first `limit` items of a paged list, None for all; and the cursor of what was left."""
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
