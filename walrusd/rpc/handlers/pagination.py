"""Pages of a list: how much goes on one, and where the next begins."""

from collections.abc import Sequence

from msgspec import Struct, json

from walrus_protocol.problems import Problem

MAX_PAGE_BYTES = 1024 * 1024
"""Of a page: results over 1 MiB are paged."""


def count_fitting(items: Sequence[Struct], limit: int) -> int:
    """How many of them make one page: at least one where there is one."""
    size = 0
    for count, item in enumerate(items[:limit]):
        size += len(json.encode(item))
        if size > MAX_PAGE_BYTES and count:
            return count
    return min(len(items), limit)


def parse_cursor(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
        raise Problem("invalid_params", f"cursor: {cursor[:40]!r} is none of ours", "Pass a cursor as it was given.")
    return int(cursor)
