"""All events: those of a session's log, those of the daemon, and the live ones that only streams send.

A row of the log is an event's JSON without `seq` and `offset`. `insert_position` adds these when the row is sent, so
that a replay decodes nothing.
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from walrus_protocol.events.daemon import *
from walrus_protocol.events.event import Event as Event
from walrus_protocol.events.event import event_type_of as event_type_of
from walrus_protocol.events.live import *
from walrus_protocol.events.session import *
from walrus_protocol.json import BadJson, Decoder, convert

AnyEvent = AnySessionEvent | AnyDaemonEvent | AnyLiveEvent


class NewerEvent(Struct, frozen=True, kw_only=True):
    """An event of a type that this version does not know: the common fields, and the whole body."""

    type: str = ""
    seq: int | None = None
    offset: int | None = None
    ts: float = 0.0
    session: int | None = None
    turn: int | None = None
    body: dict[str, object] = {}


_encoder = msgspec.json.Encoder()
_session_event_decoder: Decoder[AnySessionEvent] = Decoder(AnySessionEvent)
_any_event_decoder: Decoder[AnyEvent] = Decoder(AnyEvent)
_generic_decoder = Decoder(dict[str, object])


encode: Callable[[AnyEvent], bytes] = _encoder.encode
"""Returns the JSON of an event."""


def decode_row(body: bytes) -> AnySessionEvent:
    """Returns the event of a row of the log. Raises BadJson if it is not a session event of this version."""
    return _session_event_decoder.decode(body)


def decode(body: bytes | msgspec.Raw) -> AnyEvent | NewerEvent:
    """Returns an event from the wire; it is a NewerEvent if its type is unknown. Raises BadJson."""
    try:
        return _any_event_decoder.decode(body)
    except BadJson as error:
        if error.reason != "schema":
            raise
        fields = _generic_decoder.decode(body)
        head = {name: fields.get(name) for name in ("type", "seq", "offset", "session", "turn")}
        return convert({**head, "ts": fields.get("ts") or 0.0, "body": fields}, NewerEvent)


def insert_position(body: bytes, seq: int | None, offset: int) -> bytes:
    """Returns a row as it is sent: the same JSON object, with seq and offset in front."""
    encoded_seq = b"null" if seq is None else b"%d" % seq
    return b'{"seq":%s,"offset":%d,%s' % (encoded_seq, offset, body[1:])
