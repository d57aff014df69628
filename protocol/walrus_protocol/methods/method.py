"""The row of a method: what the protocol says about it beside its name."""

from typing import Literal

from msgspec import Struct

from walrus_protocol.param_types import Params


class Method(Struct, frozen=True):
    """A row of METHODS; everything that depends on the method is derived from it."""

    params: type[Params]
    result: type[Struct]
    order_by: Literal["session", "upload"] | None = None
    """The param by which requests are ordered: those of a connection with the same value take effect as sent."""
    inline: bool = False
    """True: its handler never waits, and runs where the request is read. Others run in a task for each request."""
    sends: Literal["events", "chunks"] | None = None
    """The notifications that it sends before its response."""
    from_tool: bool = False
    """True: processes started by the daemon's own tools may call it."""
