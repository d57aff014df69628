"""Encodes and decodes the rows stored as JSON: inbox entries, drafts, ticks and schedules."""

import msgspec

from walrus_protocol.events import Tick
from walrus_protocol.json import BadJson, Decoder
from walrusd.session.recovery import Draft
from walrusd.store.contract import InboxEntry, ScheduleRow

_encoder = msgspec.json.Encoder()
_inbox_entry = Decoder(InboxEntry)
_draft = Decoder(Draft)
_tick = Decoder(Tick)
_schedule = Decoder(ScheduleRow)


def encode(row: InboxEntry | Draft | Tick | ScheduleRow) -> bytes:
    return _encoder.encode(row)


def decode_inbox_entry(row: bytes) -> InboxEntry:
    return _inbox_entry.decode(row)


def decode_draft(row: bytes) -> Draft | None:
    """Returns the draft, or None if another version wrote it differently: the log is complete without it."""
    try:
        return _draft.decode(row)
    except BadJson:
        return None


def decode_tick(row: bytes) -> Tick:
    return _tick.decode(row)


def decode_schedule(row: bytes) -> ScheduleRow:
    return _schedule.decode(row)
