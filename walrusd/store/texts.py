"""What is long in a body is kept beside it, once, however often it is said: an answer stands in its message and in the
`done` of its turn, the calls of a round in three events, a file in each result of reading it.

What is taken out is the inside of the longest JSON string, found in the bytes as they are; what is left is JSON, too.
"""

import hashlib
import re
from typing import NamedTuple

LARGE = 4096
"""Bytes of a body that is looked at. A page of the database has as many: what is longer takes pages of its own."""
LONG = 2048
"""Bytes of a string that is taken out: below it a row of its own, with its digest twice, is hardly less."""

# Possessive: with a way back for each escape, 4 MiB of lines take half a second, without 14 ms.
_INSIDE = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)


class Apart(NamedTuple):
    """A body without its longest string, that string, and where it stood."""

    rest: bytes
    at: int
    text: bytes

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.text).digest()


def split(body: bytes) -> Apart | None:
    """None where nothing in it is worth a row of its own."""
    if len(body) < LARGE:
        return None
    start, end = max((found.span(1) for found in _INSIDE.finditer(body)), key=_length, default=(0, 0))
    return Apart(body[:start] + body[end:], start, body[start:end]) if end - start >= LONG else None


def joined(apart: Apart) -> bytes:
    """The body that was split. The same is said in SQL: see `queries.BODY`."""
    return apart.rest[: apart.at] + apart.text + apart.rest[apart.at :]


def _length(span: tuple[int, int]) -> int:
    start, end = span
    return end - start
