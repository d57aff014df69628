"""What the params of methods are made of."""

from typing import Annotated

from msgspec import Meta, Struct

from walrus_protocol.content import Part

Id = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Seq = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Limit = Annotated[int, Meta(ge=1, le=500)]
ShortText = Annotated[str, Meta(max_length=1024)]
"""A name, a title: what stands in lists beside many others."""
Key = Annotated[str, Meta(min_length=1, max_length=256)]
TimeoutSeconds = Annotated[float, Meta(gt=0, le=31_536_000)]
NonEmptyContent = Annotated[str, Meta(min_length=1)] | Annotated[tuple[Part, ...], Meta(min_length=1)]
"""A Content that somebody sends: one that says nothing begins no turn."""


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The params of a method; a base only so that none forgets to refuse what it does not know."""


class NoParams(Params, frozen=True, kw_only=True):
    pass
