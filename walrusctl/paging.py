"""Lists that come in pages, put together."""

from walrus_protocol.client import Json
from walrusctl.invocation import Invocation

_PAGE = 500
"""The most that one page of a list holds."""


def paged(asked: Invocation, method: str, name: str, params: Json, limit: int | None) -> tuple[list[Json], str | None]:
    """The first `limit` items of a paged list, None for all; and the cursor of what was left."""
    items: list[Json] = []
    cursor: str | None = None
    with asked.client() as client:
        while limit is None or len(items) < limit:
            page = _PAGE if limit is None else min(_PAGE, limit - len(items))
            answer = client.call(method, {**params, "limit": page, "cursor": cursor})
            items += answer[name]
            cursor = answer["cursor"]
            if cursor is None:
                break
    return items, cursor
