"""The fields and the `type` of all events."""

import re

from msgspec import UNSET, Struct, UnsetType


def _to_snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Event(Struct, frozen=True, kw_only=True, tag_field="type", tag=_to_snake_case):
    """The fields of all events. `ts` is in Unix seconds; `turn` is null outside a turn."""

    seq: int | UnsetType | None = UNSET
    offset: int | UnsetType = UNSET
    ts: float = 0.0
    session: int | None = None
    turn: int | None = None


def event_type_of(event_class: type[Event]) -> str:
    """Returns the `type` of a class of events."""
    tag = event_class.__struct_config__.tag
    assert isinstance(tag, str), "every event's tag is made from its class name"
    return tag
