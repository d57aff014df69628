"""An exported session as text: what it is made of, one piece after the other, and how it is taken apart again.

    {"walrus_export": 1, "exported_at": …, "version": …, "session": {…},
     "ancestors": [{"session": 3, "upto": 9, "events": [{"seq": 1, "type": …}, …]}, …],
     "events": [{"seq": 1, "type": …}, …], "outputs": [{"ref": …, "text": …}], "keys": [{"key": …, "digest": …}]}

Pure. Members of an object may come in any order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from walrus_protocol.json_reader import JsonReader, MalformedJson
from walrus_protocol.methods.export_import import FORMAT_VERSION, ExportedKey, SessionHeader
from walrusd.store.contract import EventRow

_encode = msgspec.json.Encoder().encode


class InvalidDocument(Exception):
    """The document cannot be imported. Says where, and why."""

    def __init__(self, location: str, reason: object) -> None:
        super().__init__(f"{location}: {reason}")


def encode_head(session_header: SessionHeader, exported_at: float, version: str) -> bytes:
    """From its beginning on, up to the list of ancestors and into it."""
    told = {"walrus_export": FORMAT_VERSION, "exported_at": exported_at, "version": version, "session": session_header}
    return _encode(told)[:-1] + b',\n"ancestors":['


def begin_ancestor(session: int, upto: int, *, first: bool) -> bytes:
    return b'%b\n{"session":%d,"upto":%d,"events":[' % (b"" if first else b",", session, upto)


ANCESTOR_END = b"]}"
EVENTS_START = b'],\n"events":['
OUTPUTS_START = b'],\n"outputs":['
KEYS_START = b'],\n"keys":['
DOCUMENT_END = b"]}\n"


def encode_events(rows: Sequence[EventRow]) -> bytes:
    """A page of a log, each event as on the wire but for its offset; the first of all has no comma in front."""
    return b"".join(b'%b\n{"seq":%d,%b' % (b"," if row.seq > 1 else b"", row.seq, row.body[1:]) for row in rows)


def begin_output(ref: str, *, first: bool) -> bytes:
    return b'%b\n{"ref":%b,"text":"' % (b"" if first else b",", _encode(ref))


def continue_output(text: str) -> bytes:
    return _encode(text)[1:-1]


OUTPUT_END = b'"}'


def encode_key(used_key: ExportedKey, *, first: bool) -> bytes:
    return b"%b\n%b" % (b"" if first else b",", _encode(used_key))


class HeaderField(NamedTuple):
    """One that stands for itself: walrus_export, exported_at, version, session."""

    name: str
    text: str


class AncestorField(NamedTuple):
    """What is said of the ancestor at this place: session or upto."""

    ancestor_index: int
    name: str
    text: str


class EventPiece(NamedTuple):
    """An event, of the session itself or of the ancestor at that place."""

    ancestor_index: int | None
    event_index: int
    text: str

    @property
    def location(self) -> str:
        within = "" if self.ancestor_index is None else f"ancestors[{self.ancestor_index}]."
        return f"{within}events[{self.event_index}]"


class OutputPiece(NamedTuple):
    output_index: int
    text: str

    @property
    def location(self) -> str:
        return f"outputs[{self.output_index}]"


class KeyPiece(NamedTuple):
    key_index: int
    text: str

    @property
    def location(self) -> str:
        return f"keys[{self.key_index}]"


Piece = HeaderField | AncestorField | EventPiece | OutputPiece | KeyPiece

HEADER_FIELDS = ("walrus_export", "exported_at", "version", "session")
LIST_FIELDS = ("ancestors", "events", "outputs", "keys")
ANCESTOR_FIELDS = ("session", "upto", "events")


def read_pieces(read: Callable[[], str]) -> Iterator[Piece]:
    """All pieces of the document, in the order in which they stand. Raises Bad for what is none.

    `read` gives the text, a part at a time, and "" at its end. All members are there when the last piece has come.
    """
    cutter = JsonReader(read)
    try:
        missing = {*HEADER_FIELDS, *LIST_FIELDS}
        for name in cutter.members():
            _check_known(name, (*HEADER_FIELDS, *LIST_FIELDS), "")
            missing.discard(name)
            match name:
                case "ancestors":
                    yield from _read_ancestors(cutter)
                case "events":
                    yield from _read_events(cutter, None)
                case "outputs":
                    yield from (OutputPiece(at, cutter.read_value()) for at in cutter.elements())
                case "keys":
                    yield from (KeyPiece(at, cutter.read_value()) for at in cutter.elements())
                case _:
                    yield HeaderField(name, cutter.read_value())
        cutter.expect_end()
        _check_complete(missing, "")
    except MalformedJson as malformed:
        raise InvalidDocument("the document", malformed) from malformed


def _read_ancestors(json_reader: JsonReader) -> Iterator[Piece]:
    for at in json_reader.elements():
        missing = {*ANCESTOR_FIELDS}
        for name in json_reader.members():
            _check_known(name, ANCESTOR_FIELDS, f"ancestors[{at}].")
            missing.discard(name)
            if name == "events":
                yield from _read_events(json_reader, at)
            else:
                yield AncestorField(at, name, json_reader.read_value())
        _check_complete(missing, f"ancestors[{at}].")


def _read_events(json_reader: JsonReader, ancestor_index: int | None) -> Iterator[EventPiece]:
    return (EventPiece(ancestor_index, at, json_reader.read_value()) for at in json_reader.elements())


def _check_known(name: str, names: Sequence[str], prefix: str) -> None:
    if name not in names:
        raise InvalidDocument(f"{prefix}{name[:80]}", f"this walrusd does not know it; it knows {', '.join(names)}")


def _check_complete(missing: set[str], prefix: str) -> None:
    if missing:
        raise InvalidDocument(prefix + min(missing), "it is missing")
