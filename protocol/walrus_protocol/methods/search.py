"""session.search: params and result."""

from typing import Literal

from msgspec import Struct

from walrus_protocol.param_types import Limit, Params, ShortText


class SearchParams(Params, frozen=True, kw_only=True):
    query: ShortText
    limit: Limit = 50
    cursor: str | None = None


class Mark(Struct, frozen=True):
    """From where to where in a snippet stands what was found, in code points."""

    start: int
    end: int


class Hit(Struct, frozen=True, kw_only=True):
    """An event that says what was searched for, and the piece of its text around it, white space made one space."""

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
