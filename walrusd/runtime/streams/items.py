"""The items of a stream: logged events and live events; and the snapshot sent after catching up."""

from msgspec import Struct

from walrus_protocol.content import State
from walrus_protocol.events import (
    AnyEvent,
    AnySessionEvent,
    decode_row,
    encode,
    insert_position,
)
from walrusd.session.recovery import Draft


class LoggedEvent(Struct, eq=False):
    """A durable event as stored in the log. It is encoded and decoded at most once, on first use.

    Daemon events have seq 0, which is not sent to clients.
    """

    seq: int
    offset: int
    body: bytes
    decoded: AnySessionEvent | None = None
    _wire: bytes | None = None

    @property
    def session_seq(self) -> int:
        """The seq of this event, under the name that it shares with LiveEvent."""
        return self.seq

    @property
    def wire(self) -> bytes:
        """The event's JSON, with seq and offset."""
        if self._wire is None:
            self._wire = insert_position(self.body, self.seq or None, self.offset)
        return self._wire

    @property
    def event(self) -> AnySessionEvent:
        """The decoded event. Raises BadJson if the row cannot be decoded."""
        if self.decoded is None:
            self.decoded = decode_row(self.body)
        return self.decoded


class LiveEvent(Struct, eq=False):
    """A live event. `session_seq` is the seq of the last logged event before it in its session."""

    session_seq: int
    event: AnyEvent
    _wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The event's JSON. It is encoded at most once, on first use."""
        if self._wire is None:
            self._wire = encode(self.event)
        return self._wire


StreamItem = LoggedEvent | LiveEvent


class ReplyInProgress(Struct, frozen=True, kw_only=True):
    """A reply that a model is sending, with its text so far."""

    session: int
    agent: str
    turn: int | None
    draft: Draft


class StreamSnapshot(Struct, frozen=True, kw_only=True):
    """The state of a session, or of the daemon if `session` is None, to send after catching up."""

    ts: float
    session: int | None
    state: State
    turn: int | None = None
    replies: tuple[ReplyInProgress, ...] = ()
