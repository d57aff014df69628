"""One event of a document: read, looked at by itself, and made the row of a log again."""

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
"""Of an event: one that fits into no frame would end every attach."""
MAX_DEPTH = 256
"""Objects within objects, in the arguments of a call. Who reads a log has less room for them than who imports it."""
MAX_TIMESTAMP = 253_402_214_400.0
"""The last day of the year 9999, wherever one is; no calendar goes further."""
MAX_NUMBER = 2**53 - 1
"""Of a number: what any JSON reader keeps whole."""
_UNCHECKED_FIELDS = {"arguments", "opaque"}
"""What models and their servers said. Nothing in it is counted."""
_MAX_LINE_CHARS, _MAX_NAME_CHARS = 1024, 256
"""Characters of what stands in lists, and of keys and names, as protocol/README.md has them."""

Fields = dict[str, object]
_decode = Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode


def validate_event(piece: EventPiece) -> AnySessionEvent:
    """Raises Bad for one that no walrusd of this version writes."""
    fields = _decode_fields(piece)
    if (seq := fields.pop("seq", None)) != piece.event_index + 1:
        raise InvalidDocument(
            f"{piece.location}.seq",
            f"it is {seq}; events are numbered from 1 without gaps, so here {piece.event_index + 1}",
        )
    body = _encode(fields)
    if len(body) > MAX_EVENT_BYTES:
        raise InvalidDocument(piece.location, f"it takes {len(body):,} bytes, and an event at most {MAX_EVENT_BYTES:,}")
    try:
        event = decode_row(body)
    except BadJson as error:
        raise InvalidDocument(piece.location, error) from error
    if "offset" in fields:
        raise InvalidDocument(
            f"{piece.location}.offset", "an event of a document has none: that is the daemon's it came from"
        )
    known = _decode(encode(event))
    if not fields.items() <= known.items():
        _check_all_known(fields, known, piece.location)
    if piece.text.count("{") + piece.text.count("[") > MAX_DEPTH and _nesting_depth(fields) > MAX_DEPTH:
        raise InvalidDocument(piece.location, "it is nested too deeply")
    if not 0 <= event.ts <= MAX_TIMESTAMP:
        raise InvalidDocument(f"{piece.location}.ts", f"{event.ts} is no time")
    _check_fields(fields, known, piece.location)
    for name, text, most in _bounded_texts(event):
        if len(text) > most:
            raise InvalidDocument(
                f"{piece.location}.{name}", f"it is {len(text):,} characters long; at most {most} are taken"
            )
    _check_content(event, piece.location)
    return event


def encode_row(piece: EventPiece, new_ids: Mapping[int, int]) -> bytes:
    """The body of its row, with the ids that the sessions have here. Only for an event that was checked."""
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
    assert isinstance(value, int), "it was checked"
    return value


def _check_all_known(original: object, decoded: object, location: str) -> None:
    """Raises Bad where something was told that is lost by reading it."""
    if isinstance(original, dict) and isinstance(decoded, dict):
        for name, value in original.items():
            if name not in decoded:
                raise InvalidDocument(f"{location}.{name[:80]}", "this walrusd does not know it")
            _check_all_known(value, decoded[name], f"{location}.{name[:80]}")
    elif isinstance(original, list) and isinstance(decoded, list):
        for number, pair in enumerate(zip(original, decoded, strict=True)):
            _check_all_known(*pair, f"{location}[{number}]")


def _check_fields(original: Fields, decoded: Fields, location: str) -> None:
    """Raises Bad where a field is left out, and where a number is none that is counted to.

    What an older walrusd did not write yet is null.
    """
    for name, value in decoded.items():
        if name not in original and (value is not None or name in ("session", "turn")):
            raise InvalidDocument(f"{location}.{name}", "it is missing")
    for name, number in _iter_numbers(decoded):
        if not 0 <= number <= MAX_NUMBER:
            raise InvalidDocument(f"{location}.{name}", f"{number} is not from 0 to {MAX_NUMBER:,}")


def _iter_numbers(fields: Fields) -> Iterator[tuple[str, float]]:
    for name, value in fields.items():
        if isinstance(value, dict) and name not in _UNCHECKED_FIELDS:
            yield from ((f"{name}.{inner}", number) for inner, number in _iter_numbers(value))
        elif isinstance(value, int | float):
            yield name, value


def _check_content(event: AnySessionEvent, location: str) -> None:
    """Raises Bad for what no provider takes, or no command of a person."""
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
                raise InvalidDocument(f"{location}.calls", "one has no id")
            if twice := next((id_ for at, id_ in enumerate(ids) if id_ in ids[:at]), None):
                raise InvalidDocument(f"{location}.calls", f"the id {twice[:80]!r} comes twice")
        case _:
            pass


def _nesting_depth(value: object) -> int:
    """How many objects and arrays there are within each other, counted no further than it matters."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        depth, level = depth + 1, [one for group in inner for one in group]
    return depth


def _bounded_texts(event: AnySessionEvent) -> list[tuple[str, str, int]]:
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
