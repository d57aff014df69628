"""The rows that are JSON, beside the outlines: what waits in an inbox, and drafts."""

import msgspec

from walrusd.session.mend import Draft
from walrusd.store.log import Queued

_encoder = msgspec.json.Encoder()
_queued = msgspec.json.Decoder(Queued)
_draft = msgspec.json.Decoder(Draft)


def encode(row: Queued | Draft) -> bytes:
    return _encoder.encode(row)


def decode_queued(row: bytes) -> Queued:
    return _queued.decode(row)


def decode_draft(row: bytes) -> Draft | None:
    """None for a draft as another version wrote it: a few words less in a log that is whole without them."""
    try:
        return _draft.decode(row)
    except msgspec.MsgspecError:
        return None
