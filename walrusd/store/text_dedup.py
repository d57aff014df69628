"""What is long in a body is kept beside it, once, however often it is said: an answer stands in its message and in the
`done` of its turn, the calls of a round in three events, a file in each result of reading it.

What is taken out is the inside of the longest JSON string, found in the bytes as they are; what is left is JSON, too.
"""

import hashlib
import re
from typing import NamedTuple

MIN_BODY_BYTES = 4096
"""Bytes of a body that is looked at. A page of the database has as many: what is longer takes pages of its own."""
MIN_TEXT_BYTES = 2048
"""Bytes of a string that is taken out: below it a row of its own, with its digest twice, is hardly less."""

# Possessive: with a way back for each escape, 4 MiB of lines take half a second, without 14 ms.
_STRING_CONTENT = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)


class DetachedText(NamedTuple):
    """A body without its longest string, that string, and where it stood."""

    rest: bytes
    position: int
    text: bytes

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.text).digest()


def detach(body: bytes) -> DetachedText | None:
    """None where nothing in it is worth a row of its own."""
    if len(body) < MIN_BODY_BYTES:
        return None
    start, end = max((found.span(1) for found in _STRING_CONTENT.finditer(body)), key=_span_length, default=(0, 0))
    return DetachedText(body[:start] + body[end:], start, body[start:end]) if end - start >= MIN_TEXT_BYTES else None


def reattach(detached: DetachedText) -> bytes:
    """The body that was split. The same is said in SQL: see `queries.BODY`."""
    return detached.rest[: detached.position] + detached.text + detached.rest[detached.position :]


def _span_length(span: tuple[int, int]) -> int:
    start, end = span
    return end - start
