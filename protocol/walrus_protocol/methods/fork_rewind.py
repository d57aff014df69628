"""The params and results of session.fork, session.rewind, session.checkpoint and session.checkpoints."""

from typing import Annotated

from msgspec import Meta, Struct

from walrus_protocol.methods.method import Method
from walrus_protocol.param_types import Id, Limit, Params

EventSeq = Annotated[int, Meta(ge=1, le=2**53 - 1)]
"""The seq of an event; as a point of a conversation it includes that event."""
CheckpointName = Annotated[str, Meta(min_length=1, max_length=256)]


class ForkParams(Params, frozen=True, kw_only=True):
    session: Id
    at: EventSeq | None = None


class ForkResult(Struct, frozen=True, kw_only=True):
    """The new session; `at` is the point that it continues from."""

    session: int
    at: int


class RewindParams(Params, frozen=True, kw_only=True):
    session: Id
    to: EventSeq


class RewindResult(Struct, frozen=True, kw_only=True):
    """`to` is the point that the session continues from, `last_seq` is the seq of the event `rewound`."""

    last_seq: int
    to: int


class CheckpointParams(Params, frozen=True, kw_only=True):
    session: Id
    name: CheckpointName


class CheckpointResult(Struct, frozen=True, kw_only=True):
    at: int


class CheckpointListParams(Params, frozen=True, kw_only=True):
    session: Id
    limit: Limit = 50
    cursor: str | None = None


class CheckpointInfo(Struct, frozen=True, kw_only=True):
    name: str
    at: int
    ts: float


class CheckpointList(Struct, frozen=True, kw_only=True):
    """The checkpoints in order of creation; reusing a name moves its checkpoint to the end."""

    checkpoints: tuple[CheckpointInfo, ...]
    cursor: str | None = None


ROWS: dict[str, Method] = {
    "session.fork": Method(ForkParams, ForkResult, order_by="session"),
    "session.rewind": Method(RewindParams, RewindResult, order_by="session"),
    "session.checkpoint": Method(CheckpointParams, CheckpointResult, order_by="session"),
    "session.checkpoints": Method(CheckpointListParams, CheckpointList),
}
