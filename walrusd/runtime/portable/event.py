"""One event of a document: read, looked at by itself, and made the row of a log again."""

from collections.abc import Mapping

import msgspec

from walrus_protocol.events import CheckpointCreated, Durable, SessionCreated, UserMessage, decode_row, encode
from walrus_protocol.wire import MAX_FRAME
from walrusd.runtime.portable.document import Bad, Told

MOST_BYTES = MAX_FRAME - 64 * 1024
"""Of an event: one that fits into no frame would end every attach."""
DEEPEST = 256
"""Objects within objects, in the arguments of a call. Who reads a log has less room for them than who imports it."""
LATEST = 253_402_300_799.0
"""The end of the year 9999; no calendar goes further."""
_LINE, _NAME = 1024, 256
"""Characters of what stands in lists, and of keys and names, as protocol/README.md has them."""

Fields = dict[str, object]
_decode = msgspec.json.Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode


def checked_event(told: Told) -> Durable:
    """Raises Bad for one that no walrusd of this version writes."""
    fields = _fields(told)
    if (seq := fields.pop("seq", None)) != told.at + 1:
        raise Bad(f"{told.place}.seq", f"it is {seq}; events are numbered from 1 without gaps, so here {told.at + 1}")
    body = _encode(fields)
    if len(body) > MOST_BYTES:
        raise Bad(told.place, f"it takes {len(body):,} bytes, and an event at most {MOST_BYTES:,}")
    try:
        event = decode_row(body)
    except msgspec.DecodeError as error:
        raise Bad(told.place, error) from error
    if "offset" in fields:
        raise Bad(f"{told.place}.offset", "an event of a document has none: that is the daemon's it came from")
    known = _decode(encode(event))
    if not fields.items() <= known.items():
        _all_known(fields, known, told.place)
    if told.text.count("{") + told.text.count("[") > DEEPEST and _depth(fields) > DEEPEST:
        raise Bad(told.place, "it is nested too deeply")
    if not 0 <= event.ts <= LATEST:
        raise Bad(f"{told.place}.ts", f"{event.ts} is no time")
    for name, text, most in _short_ones(event):
        if len(text) > most:
            raise Bad(f"{told.place}.{name}", f"it is {len(text):,} characters long; at most {most} are taken")
    return event


def row_of(told: Told, ids: Mapping[int, int]) -> bytes:
    """The body of its row, with the ids that the sessions have here. Only for an event that was checked."""
    fields = _fields(told)
    del fields["seq"]
    kind = fields.pop("type")
    fields["session"] = ids[_int(fields["session"])]
    if isinstance(parent := fields.get("parent"), dict):
        parent["session"] = ids[_int(parent["session"])]
    return _encode({"type": kind, **fields})


def _fields(told: Told) -> Fields:
    try:
        return _decode(told.text)
    except msgspec.DecodeError as error:
        raise Bad(told.place, error) from error


def _int(value: object) -> int:
    assert isinstance(value, int), "it was checked"
    return value


def _all_known(told: object, known: object, place: str) -> None:
    """Raises Bad where something was told that is lost by reading it."""
    if isinstance(told, dict) and isinstance(known, dict):
        for name, value in told.items():
            if name not in known:
                raise Bad(f"{place}.{name[:80]}", "this walrusd does not know it")
            _all_known(value, known[name], f"{place}.{name[:80]}")
    elif isinstance(told, list) and isinstance(known, list):
        for number, pair in enumerate(zip(told, known, strict=True)):
            _all_known(*pair, f"{place}[{number}]")


def _depth(value: object) -> int:
    """How many objects and arrays there are within each other, counted no further than it matters."""
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        depth, level = depth + 1, [one for group in inner for one in group]
    return depth


def _short_ones(event: Durable) -> list[tuple[str, str, int]]:
    match event:
        case SessionCreated():
            return [
                ("agent", event.agent, _LINE),
                ("created_by", event.created_by, _LINE),
                ("title", event.title, _LINE),
            ]
        case UserMessage():
            return [("sender", event.sender, _LINE), ("key", event.key or "", _NAME)]
        case CheckpointCreated():
            return [("name", event.name, _NAME)]
        case _:
            return []
