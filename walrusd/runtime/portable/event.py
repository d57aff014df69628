"""One event of a document: read, looked at by itself, and made the row of a log again."""

from collections.abc import Iterator, Mapping

import msgspec

from walrus_protocol.events import (
    AssistantMessage,
    CheckpointCreated,
    Durable,
    SessionCreated,
    UserMessage,
    decode_row,
    encode,
)
from walrus_protocol.json import BadJson, Decoder
from walrus_protocol.problems import Problem
from walrus_protocol.wire import MAX_FRAME
from walrusd.runtime.branching import check_name
from walrusd.runtime.portable.document import Bad, Told

MOST_BYTES = MAX_FRAME - 64 * 1024
"""Of an event: one that fits into no frame would end every attach."""
DEEPEST = 256
"""Objects within objects, in the arguments of a call. Who reads a log has less room for them than who imports it."""
LATEST = 253_402_214_400.0
"""The last day of the year 9999, wherever one is; no calendar goes further."""
HIGHEST = 2**53 - 1
"""Of a number: what any JSON reader keeps whole."""
_AS_IT_CAME = {"arguments", "opaque"}
"""What models and their servers said. Nothing in it is counted."""
_LINE, _NAME = 1024, 256
"""Characters of what stands in lists, and of keys and names, as protocol/README.md has them."""

Fields = dict[str, object]
_decode = Decoder(Fields).decode
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
    except BadJson as error:
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
    _check_whole(fields, known, told.place)
    for name, text, most in _short_ones(event):
        if len(text) > most:
            raise Bad(f"{told.place}.{name}", f"it is {len(text):,} characters long; at most {most} are taken")
    _check_said(event, told.place)
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
    except BadJson as error:
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


def _check_whole(told: Fields, known: Fields, place: str) -> None:
    """Raises Bad where a field is left out, and where a number is none that is counted to.

    What an older walrusd did not write yet is null.
    """
    for name, value in known.items():
        if name not in told and (value is not None or name in ("session", "turn")):
            raise Bad(f"{place}.{name}", "it is missing")
    for name, number in _numbers(known):
        if not 0 <= number <= HIGHEST:
            raise Bad(f"{place}.{name}", f"{number} is not from 0 to {HIGHEST:,}")


def _numbers(fields: Fields) -> Iterator[tuple[str, float]]:
    for name, value in fields.items():
        if isinstance(value, dict) and name not in _AS_IT_CAME:
            yield from ((f"{name}.{inner}", number) for inner, number in _numbers(value))
        elif isinstance(value, int | float):
            yield name, value


def _check_said(event: Durable, place: str) -> None:
    """Raises Bad for what no provider takes, or no command of a person."""
    match event:
        case SessionCreated(agent=""):
            raise Bad(f"{place}.agent", "it is empty")
        case UserMessage(key=""):
            raise Bad(f"{place}.key", "it is empty")
        case UserMessage(content="" | ()):
            raise Bad(f"{place}.content", "it is empty")
        case CheckpointCreated(name=""):
            raise Bad(f"{place}.name", "it is empty")
        case CheckpointCreated(name=name):
            try:
                check_name(name)
            except Problem as problem:
                raise Bad(f"{place}.name", problem.message.removeprefix("name: ")) from problem
        case AssistantMessage(calls=calls):
            ids = [call.id for call in calls]
            if "" in ids:
                raise Bad(f"{place}.calls", "one has no id")
            if twice := next((id_ for at, id_ in enumerate(ids) if id_ in ids[:at]), None):
                raise Bad(f"{place}.calls", f"the id {twice[:80]!r} comes twice")
        case _:
            pass


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
