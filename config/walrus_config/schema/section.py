"""The base of all tables of walrus.toml, and the types that several of them use."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, ClassVar, Self, get_args

from msgspec import Meta, Struct

from walrus_config.diagnostics import Location
from walrus_config.paths import Paths

_MAX_NUMBER = 1_000_000_000
"""Maximum of most numbers: thirty years in seconds, more than any sensible value; excludes infinity."""
NonNegative = Annotated[float, Meta(ge=0, le=_MAX_NUMBER)]
Positive = Annotated[float, Meta(gt=0, le=_MAX_NUMBER)]
Count = Annotated[int, Meta(ge=1, le=_MAX_NUMBER)]


class KeyMark(Enum):
    """Marks of keys, written as `Annotated[type, KeyMark.…]`."""

    AT_RESTART = "read only at the start; a change takes effect at the next start"
    NO_EFFECT = "accepted with a warning: the key has no effect yet, and so permits nothing"


class NotYet(Struct, frozen=True):
    """Values of a key whose feature does not exist yet, written as `Annotated[type, NotYet(…)]`."""

    values: tuple[str, ...]


class ResolveContext(Struct, frozen=True, kw_only=True):
    """What `Section.resolve` may read besides the section."""

    paths: Paths
    environ: Mapping[str, str]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of walrus.toml. Its fields are the keys, with their types, bounds and defaults."""

    unsupported_keys: ClassVar[tuple[str, ...]] = ()
    """Keys whose feature does not exist yet.

    They are refused, not ignored: a budget or a rule that silently does nothing is worse than none.
    """

    @classmethod
    def types_by_name(cls) -> Mapping[str, type[Self]]:
        """Returns the types of tables that have keys of their own, if users name tables of this type."""
        return {}

    def resolve(self, at: Location, context: ResolveContext) -> Self:
        """Returns the section with absolute paths and resolved secrets; for tables at the top and their entries."""
        return self

    def check(self, at: Location) -> None:
        """Adds errors and warnings that types cannot express."""


def section_in(annotation: object) -> type[Section] | None:
    """Returns the type of table that a field's type contains: itself, in a mapping, or as optional."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None
