"""event.subscribe: params and result."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from walrus_protocol.content import EventType
from walrus_protocol.param_types import Id, Params, Seq, ShortText

FilterLength = Meta(min_length=1, max_length=1000)
AgentName = Annotated[ShortText, Meta(min_length=1)]


class SubscribeParams(Params, frozen=True, kw_only=True):
    """`since` null is from now on. What names nothing filters nothing."""

    since: Seq | None = None
    follow: bool = True
    sessions: Annotated[tuple[Id, ...], FilterLength] | None = None
    agents: Annotated[tuple[AgentName, ...], FilterLength] | None = None
    types: Annotated[tuple[EventType, ...], FilterLength] | None = None
    deltas: bool = True


class SubscribeResult(Struct, frozen=True, kw_only=True):
    """`last_offset` is what to subscribe `since` to go on from here, whatever was filtered out."""

    last_offset: int
    reason: Literal["end", "closed"]
