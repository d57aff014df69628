"""The JSON document of an exported session: writes it piece by piece, and splits it into pieces again.

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
from walrusd.store.tables.event import EventRow

_encode = msgspec.json.Encoder().encode


class InvalidDocument(Exception):
    """Raised if a document cannot be imported; its text is the location and the reason."""

    def __init__(self, location: str, reason: object) -> None:
        super().__init__(f"{location}: {reason}")


def encode_head(session_header: SessionHeader, exported_at: float, version: str) -> bytes:
    """Returns the beginning of the document, up to the opening bracket of the list of ancestors."""
    head = {"walrus_export": FORMAT_VERSION, "exported_at": exported_at, "version": version, "session": session_header}
    return _encode(head)[:-1] + b',\n"ancestors":['


def begin_ancestor(session: int, upto: int, *, first: bool) -> bytes:
    return b'%b\n{"session":%d,"upto":%d,"events":[' % (b"" if first else b",", session, upto)


ANCESTOR_END = b"]}"
EVENTS_START = b'],\n"events":['
OUTPUTS_START = b'],\n"outputs":['
KEYS_START = b'],\n"keys":['
DOCUMENT_END = b"]}\n"


def encode_events(rows: Sequence[EventRow]) -> bytes:
    """Returns a page of a log: events as on the wire, but without offset.

    Only the event with seq 1 has no comma before it.
    """
    return b"".join(b'%b\n{"seq":%d,%b' % (b"," if row.seq > 1 else b"", row.seq, row.body[1:]) for row in rows)


def begin_output(ref: str, *, first: bool) -> bytes:
    return b'%b\n{"ref":%b,"text":"' % (b"" if first else b",", _encode(ref))


def continue_output(text: str) -> bytes:
    return _encode(text)[1:-1]


OUTPUT_END = b'"}'


def encode_key(used_key: ExportedKey, *, first: bool) -> bytes:
    return b"%b\n%b" % (b"" if first else b",", _encode(used_key))


class HeaderField(NamedTuple):
    """A member of the document that is not a list: walrus_export, exported_at, version or session."""

    name: str
    text: str


class AncestorField(NamedTuple):
    """The member `session` or `upto` of the ancestor at this index."""

    ancestor_index: int
    name: str
    text: str


class EventPiece(NamedTuple):
    """An event of the ancestor at `ancestor_index`, or of the session itself if that is None."""

    ancestor_index: int | None
    event_index: int
    text: str

    @property
    def location(self) -> str:
        prefix = "" if self.ancestor_index is None else f"ancestors[{self.ancestor_index}]."
        return f"{prefix}events[{self.event_index}]"


class OutputPiece(NamedTuple):
    """An element of the list of outputs."""

    location: str
    text: str


class KeyPiece(NamedTuple):
    """An element of the list of keys."""

    location: str
    text: str


Piece = HeaderField | AncestorField | EventPiece | OutputPiece | KeyPiece

HEADER_FIELDS = ("walrus_export", "exported_at", "version", "session")
LIST_FIELDS = ("ancestors", "events", "outputs", "keys")
ANCESTOR_FIELDS = ("session", "upto", "events")


def read_pieces(read: Callable[[], str]) -> Iterator[Piece]:
    """Yields all pieces of the document in their order. Raises InvalidDocument.

    `read` returns the next part of the text, and "" at its end. After the last piece, it is certain that no member is
    missing.
    """
    json_reader = JsonReader(read)
    try:
        missing = {*HEADER_FIELDS, *LIST_FIELDS}
        for name in json_reader.members():
            _check_known(name, (*HEADER_FIELDS, *LIST_FIELDS), "")
            missing.discard(name)
            match name:
                case "ancestors":
                    yield from _read_ancestors(json_reader)
                case "events":
                    yield from _read_events(json_reader, None)
                case "outputs":
                    for index in json_reader.elements():
                        yield OutputPiece(f"outputs[{index}]", json_reader.read_value())
                case "keys":
                    for index in json_reader.elements():
                        yield KeyPiece(f"keys[{index}]", json_reader.read_value())
                case _:
                    yield HeaderField(name, json_reader.read_value())
        json_reader.expect_end()
        _check_complete(missing, "")
    except MalformedJson as malformed:
        raise InvalidDocument("the document", malformed) from malformed


def _read_ancestors(json_reader: JsonReader) -> Iterator[Piece]:
    for index in json_reader.elements():
        missing = {*ANCESTOR_FIELDS}
        for name in json_reader.members():
            _check_known(name, ANCESTOR_FIELDS, f"ancestors[{index}].")
            missing.discard(name)
            if name == "events":
                yield from _read_events(json_reader, index)
            else:
                yield AncestorField(index, name, json_reader.read_value())
        _check_complete(missing, f"ancestors[{index}].")


def _read_events(json_reader: JsonReader, ancestor_index: int | None) -> Iterator[EventPiece]:
    return (EventPiece(ancestor_index, index, json_reader.read_value()) for index in json_reader.elements())


def _check_known(name: str, names: Sequence[str], prefix: str) -> None:
    if name not in names:
        raise InvalidDocument(f"{prefix}{name[:80]}", f"unknown field; this walrusd knows {', '.join(names)}")


def _check_complete(missing: set[str], prefix: str) -> None:
    if missing:
        raise InvalidDocument(prefix + min(missing), "the field is missing")
