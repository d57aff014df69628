"""The params and results of session.search."""

from typing import Literal

from msgspec import Struct

from walrus_protocol.param_types import Limit, Params, ShortText


class SearchParams(Params, frozen=True, kw_only=True):
    query: ShortText
    limit: Limit = 50
    cursor: str | None = None


class Mark(Struct, frozen=True):
    """The position of a match in a snippet, in code points; `end` is exclusive."""

    start: int
    end: int


class Hit(Struct, frozen=True, kw_only=True):
    """An event that matches the query, and the text around the match, with white space collapsed."""

    session: int
    seq: int
    offset: int
    agent: str
    role: Literal["user", "assistant"]
    ts: float
    snippet: str
    marks: tuple[Mark, ...] = ()


class Hits(Struct, frozen=True, kw_only=True):
    hits: tuple[Hit, ...]
    cursor: str | None = None
