"""Pagination of lists: how many items fit on a page, and the cursor of the next page."""

from collections.abc import Sequence

from msgspec import Struct, json

from walrus_protocol.problems import Problem

MAX_PAGE_BYTES = 1024 * 1024
"""Maximum bytes of a page: the protocol pages results over 1 MiB."""


def count_fitting(items: Sequence[Struct], limit: int) -> int:
    """Returns how many of the first items fit on one page: at least one, if there is one."""
    size = 0
    for count, item in enumerate(items[:limit]):
        size += len(json.encode(item))
        if size > MAX_PAGE_BYTES and count:
            return count
    return min(len(items), limit)


def parse_cursor(cursor: str) -> int:
    """Raises Problem invalid_params if the cursor is malformed."""
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
        raise Problem(
            "invalid_params",
            f"cursor: {cursor[:40]!r} is not a valid cursor",
            "Pass the cursor of the previous page unchanged.",
        )
    return int(cursor)
