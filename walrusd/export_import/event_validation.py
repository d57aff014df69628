"""Validates a single event of an exported document, and encodes it as a row of the log."""

from collections.abc import Iterator, Mapping

import msgspec

from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    CheckpointCreated,
    SessionCreated,
    UserMessage,
    decode_row,
    encode,
)
from walrus_protocol.json import BadJson, Decoder
from walrus_protocol.problems import Problem
from walrus_protocol.wire import MAX_FRAME
from walrusd.export_import.document_format import EventPiece, InvalidDocument
from walrusd.runtime.commands.fork_rewind import check_checkpoint_name

MAX_EVENT_BYTES = MAX_FRAME - 64 * 1024
"""Maximum bytes of an event: one that does not fit into a frame would break every attach."""
MAX_DEPTH = 256
"""Maximum nesting of objects and arrays in an event, as in the arguments of a call.

Readers of a log support less nesting than the importer.
"""
MAX_TIMESTAMP = 253_402_214_400.0
"""Maximum unix time: the last day of the year 9999 in every time zone; calendars do not go further."""
MAX_NUMBER = 2**53 - 1
"""Maximum value of a number: every JSON reader represents it exactly."""
_UNCHECKED_FIELDS = {"arguments", "opaque"}
"""Fields with data of models and their servers; no number in them is checked."""
_MAX_LINE_CHARS, _MAX_NAME_CHARS = 1024, 256
"""Maximum characters of texts shown in lists, and of keys and names, as in protocol/README.md."""

Fields = dict[str, object]
_decode = Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode


def validate_event(piece: EventPiece) -> AnySessionEvent:
    """Returns the event. Raises InvalidDocument if no walrusd of this version would write it."""
    fields = _decode_fields(piece)
    if (seq := fields.pop("seq", None)) != piece.event_index + 1:
        raise InvalidDocument(
            f"{piece.location}.seq",
            f"it is {seq}, not {piece.event_index + 1}; events are numbered from 1 without gaps",
        )
    body = _encode(fields)
    if len(body) > MAX_EVENT_BYTES:
        raise InvalidDocument(piece.location, f"it takes {len(body):,} bytes; the limit is {MAX_EVENT_BYTES:,}")
    try:
        event = decode_row(body)
    except BadJson as error:
        raise InvalidDocument(piece.location, error) from error
    if "offset" in fields:
        raise InvalidDocument(
            f"{piece.location}.offset", "an exported event has no offset; each daemon assigns its own"
        )
    decoded = _decode(encode(event))
    if not fields.items() <= decoded.items():
        _check_all_known(fields, decoded, piece.location)
    if piece.text.count("{") + piece.text.count("[") > MAX_DEPTH and _nesting_depth(fields) > MAX_DEPTH:
        raise InvalidDocument(piece.location, "it is nested too deeply")
    if not 0 <= event.ts <= MAX_TIMESTAMP:
        raise InvalidDocument(f"{piece.location}.ts", f"{event.ts} is not a valid time")
    _check_fields(fields, decoded, piece.location)
    for name, text, max_chars in _bounded_texts(event):
        if len(text) > max_chars:
            raise InvalidDocument(
                f"{piece.location}.{name}", f"it is {len(text):,} characters long; the limit is {max_chars}"
            )
    _check_content(event, piece.location)
    return event


def encode_row(piece: EventPiece, new_ids: Mapping[int, int]) -> bytes:
    """Returns the body of the event's row, with the new ids of the sessions. The event must be validated."""
    fields = _decode_fields(piece)
    del fields["seq"]
    kind = fields.pop("type")
    fields["session"] = new_ids[_as_int(fields["session"])]
    if isinstance(parent := fields.get("parent"), dict):
        parent["session"] = new_ids[_as_int(parent["session"])]
    return _encode({"type": kind, **fields})


def _decode_fields(piece: EventPiece) -> Fields:
    try:
        return _decode(piece.text)
    except BadJson as error:
        raise InvalidDocument(piece.location, error) from error


def _as_int(value: object) -> int:
    assert isinstance(value, int), "the event was validated"
    return value


def _check_all_known(original: object, decoded: object, location: str) -> None:
    """Raises InvalidDocument if the original has a field that decoding drops."""
    if isinstance(original, dict) and isinstance(decoded, dict):
        for name, value in original.items():
            if name not in decoded:
                raise InvalidDocument(f"{location}.{name[:80]}", "unknown field")
            _check_all_known(value, decoded[name], f"{location}.{name[:80]}")
    elif isinstance(original, list) and isinstance(decoded, list):
        for index, pair in enumerate(zip(original, decoded, strict=True)):
            _check_all_known(*pair, f"{location}[{index}]")


def _check_fields(original: Fields, decoded: Fields, location: str) -> None:
    """Raises InvalidDocument if a field is missing or a number is out of range.

    A field that an older walrusd did not write is None after decoding and may be missing.
    """
    for name, value in decoded.items():
        if name not in original and (value is not None or name in ("session", "turn")):
            raise InvalidDocument(f"{location}.{name}", "the field is missing")
    for name, number in _iter_numbers(decoded):
        if not 0 <= number <= MAX_NUMBER:
            raise InvalidDocument(f"{location}.{name}", f"{number} is not between 0 and {MAX_NUMBER:,}")


def _iter_numbers(fields: Fields) -> Iterator[tuple[str, float]]:
    for name, value in fields.items():
        if isinstance(value, dict) and name not in _UNCHECKED_FIELDS:
            yield from ((f"{name}.{inner}", number) for inner, number in _iter_numbers(value))
        elif isinstance(value, int | float):
            yield name, value


def _check_content(event: AnySessionEvent, location: str) -> None:
    """Raises InvalidDocument for content that no provider accepts or no user command could create."""
    match event:
        case SessionCreated(agent=""):
            raise InvalidDocument(f"{location}.agent", "it is empty")
        case UserMessage(key=""):
            raise InvalidDocument(f"{location}.key", "it is empty")
        case UserMessage(content="" | ()):
            raise InvalidDocument(f"{location}.content", "it is empty")
        case CheckpointCreated(name=""):
            raise InvalidDocument(f"{location}.name", "it is empty")
        case CheckpointCreated(name=name):
            try:
                check_checkpoint_name(name)
            except Problem as problem:
                raise InvalidDocument(f"{location}.name", problem.message.removeprefix("name: ")) from problem
        case AssistantMessage(calls=calls):
            ids = [call.id for call in calls]
            if "" in ids:
                raise InvalidDocument(f"{location}.calls", "a call has no id")
            if duplicate := next((id_ for index, id_ in enumerate(ids) if id_ in ids[:index]), None):
                raise InvalidDocument(f"{location}.calls", f"the id {duplicate[:80]!r} occurs twice")
        case _:
            pass


def _nesting_depth(value: object) -> int:
    """Returns the nesting depth of objects and arrays; it stops counting beyond MAX_DEPTH."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        depth, level = depth + 1, [one for group in inner for one in group]
    return depth


def _bounded_texts(event: AnySessionEvent) -> list[tuple[str, str, int]]:
    """Returns (field, text, maximum characters) of the texts with a length limit."""
    match event:
        case SessionCreated():
            return [
                ("agent", event.agent, _MAX_LINE_CHARS),
                ("created_by", event.created_by, _MAX_LINE_CHARS),
                ("title", event.title, _MAX_LINE_CHARS),
            ]
        case UserMessage():
            return [("sender", event.sender, _MAX_LINE_CHARS), ("key", event.key or "", _MAX_NAME_CHARS)]
        case CheckpointCreated():
            return [("name", event.name, _MAX_NAME_CHARS)]
        case _:
            return []
