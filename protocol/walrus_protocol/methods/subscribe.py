"""The params and results of event.subscribe."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from walrus_protocol.content import EventType
from walrus_protocol.methods.method import Method
from walrus_protocol.param_types import Id, Params, Seq, ShortText

FilterLength = Meta(min_length=1, max_length=1000)
AgentName = Annotated[ShortText, Meta(min_length=1)]


class SubscribeParams(Params, frozen=True, kw_only=True):
    """The start and the filters of a subscription.

    If `since` is null it starts now; a null filter matches all.
    """

    since: Seq | None = None
    follow: bool = True
    sessions: Annotated[tuple[Id, ...], FilterLength] | None = None
    agents: Annotated[tuple[AgentName, ...], FilterLength] | None = None
    types: Annotated[tuple[EventType, ...], FilterLength] | None = None
    deltas: bool = True


class SubscribeResult(Struct, frozen=True, kw_only=True):
    """`last_offset` is the `since` of a subscription that continues here, with any filters."""

    last_offset: int
    reason: Literal["end", "closed"]


ROWS: dict[str, Method] = {
    "event.subscribe": Method(SubscribeParams, SubscribeResult, sends="events"),
}
