"""The types that the params of methods consist of, with their bounds."""

from typing import Annotated

from msgspec import Meta, Struct

from walrus_protocol.content import Part

Id = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Seq = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Limit = Annotated[int, Meta(ge=1, le=500)]
ShortText = Annotated[str, Meta(max_length=1024)]
"""A text of at most 1,024 characters, such as a name or a title, which lists show."""
Key = Annotated[str, Meta(min_length=1, max_length=256)]
TimeoutSeconds = Annotated[float, Meta(gt=0, le=31_536_000)]
NonEmptyContent = Annotated[str, Meta(min_length=1)] | Annotated[tuple[Part, ...], Meta(min_length=1)]
"""A Content that is not empty, for messages: an empty one cannot start a turn."""


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all params; it makes every method refuse unknown params."""


class NoParams(Params, frozen=True, kw_only=True):
    pass
