"""Writes one full and one minimal instance of every event type into the recording of this release.

python -m tests.protocol.recorded_events      # before a release; a recording of an older one never changes
"""

from pathlib import Path
from typing import Any, get_args

from msgspec import inspect as mi

import walrusd
from walrus_protocol.content import FilePart, ImagePart, TextPart
from walrus_protocol.events import AnyEvent, UserMessage, encode

FOLDER = Path(__file__).parent / "recorded"


def instances() -> list[AnyEvent]:
    found: list[AnyEvent] = []
    for event_type in get_args(AnyEvent):
        described = mi.type_info(event_type)
        assert isinstance(described, mi.StructType)
        live = {"live": True} if any(field.name == "live" for field in described.fields) else {}
        for full in (True, False):
            values = {
                field.name: _sample(field.type)
                for field in described.fields
                if field.name not in ("seq", "offset", "live") and (full or field.required)
            }
            found.append(event_type(**values, **live))
    parts = (TextPart("look"), ImagePart(data="aGk="), ImagePart(url="file:///x"), FilePart(name="a", data="aGk="))
    return [*found, UserMessage(content=parts)]


def _sample(described: mi.Type) -> Any:
    """Returns a value that is not the default: the last of several types, the last word of a closed list."""
    match described:
        case mi.UnionType(types=types):
            return _sample(next(kind for kind in types if not isinstance(kind, mi.NoneType | mi.CustomType)))
        case mi.StructType(cls=kind, fields=fields):
            return kind(**{field.name: _sample(field.type) for field in fields})
        case mi.LiteralType(values=values):
            return values[-1]
        case mi.VarTupleType(item_type=item):
            return (_sample(item), _sample(item))
        case mi.DictType():
            return {"key": [1, {"deep": "é"}]}
        case mi.StrType():
            return 'text "quoted" é 🦭\n'
        case mi.IntType():
            return 7
        case mi.FloatType():
            return 1.5
        case mi.BoolType():
            return True
        case _:
            return "anything"


if __name__ == "__main__":
    path = FOLDER / f"{walrusd.__version__}.jsonl"
    path.write_bytes(b"".join(encode(event) + b"\n" for event in instances()))
    print(f"{path} written")  # noqa: T201 - a script
