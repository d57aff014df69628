"""The rows that are JSON, beside the outlines: what waits in an inbox, drafts, ticks and schedules."""

import msgspec

from walrus_protocol.events import Tick
from walrus_protocol.json import BadJson, Decoder
from walrusd.session.mend import Draft
from walrusd.store.log import Queued, Schedule

_encoder = msgspec.json.Encoder()
_queued = Decoder(Queued)
_draft = Decoder(Draft)
_tick = Decoder(Tick)
_schedule = Decoder(Schedule)


def encode(row: Queued | Draft | Tick | Schedule) -> bytes:
    return _encoder.encode(row)


def decode_queued(row: bytes) -> Queued:
    return _queued.decode(row)


def decode_draft(row: bytes) -> Draft | None:
    """None for a draft as another version wrote it: a few words less in a log that is whole without them."""
    try:
        return _draft.decode(row)
    except BadJson:
        return None


def decode_tick(row: bytes) -> Tick:
    return _tick.decode(row)


def decode_schedule(row: bytes) -> Schedule:
    return _schedule.decode(row)
