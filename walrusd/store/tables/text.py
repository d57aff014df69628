"""Detaches the longest text of an event body, so that a text in several events is stored once.

An answer is in its message and in the `done` of its turn, the calls of a round are in three events, and a file is in
each result of reading it. The detached text is the content of the longest JSON string, found in the raw bytes; the rest
of the body is JSON, too.
"""

import hashlib
import re
from typing import NamedTuple

from walrusd.store.tables.statements import BlobStatement
from walrusd.store.tables.table import Table

MIN_BODY_BYTES = 4096
"""Minimum bytes of a body to detach a text from: a database page; a longer body takes extra pages."""
MIN_TEXT_BYTES = 2048
"""Minimum bytes of a string to detach: for a shorter one, a row and two digests save hardly anything."""

INSERT = BlobStatement("INSERT INTO text (digest, body) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING")

TABLES = (Table(name="text"),)

# Possessive quantifiers: with backtracking at each escape, 4 MiB of lines take half a second, without it 14 ms.
_STRING_CONTENT = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)


class DetachedText(NamedTuple):
    """A body without its longest string, that string, and its position in the body."""

    rest: bytes
    position: int
    text: bytes

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.text).digest()


def detach(body: bytes) -> DetachedText | None:
    """Returns the body with its longest string detached, or None if no string is long enough."""
    if len(body) < MIN_BODY_BYTES:
        return None
    start, end = max((found.span(1) for found in _STRING_CONTENT.finditer(body)), key=_span_length, default=(0, 0))
    return DetachedText(body[:start] + body[end:], start, body[start:end]) if end - start >= MIN_TEXT_BYTES else None


def reattach(detached: DetachedText) -> bytes:
    """Returns the original body. `schema.FULL_BODY` does the same in SQL."""
    return detached.rest[: detached.position] + detached.text + detached.rest[detached.position :]


def _span_length(span: tuple[int, int]) -> int:
    start, end = span
    return end - start
