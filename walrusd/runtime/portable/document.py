"""An exported session as text: what it is made of, one piece after the other, and how it is taken apart again.

    {"walrus_export": 1, "exported_at": …, "version": …, "session": {…},
     "ancestors": [{"session": 3, "upto": 9, "events": [{"seq": 1, "type": …}, …]}, …],
     "events": [{"seq": 1, "type": …}, …], "outputs": [{"ref": …, "text": …}], "keys": [{"key": …, "digest": …}]}

Pure. Members of an object may come in any order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from walrus_protocol.cutting import Cutter, Malformed
from walrus_protocol.portable import FORMAT, Described, UsedKey
from walrusd.store.log import Stored

_encode = msgspec.json.Encoder().encode


class Bad(Exception):
    """The document cannot be imported. Says where, and why."""

    def __init__(self, place: str, why: object) -> None:
        super().__init__(f"{place}: {why}")


def head(described: Described, exported_at: float, version: str) -> bytes:
    """From its beginning on, up to the list of ancestors and into it."""
    told = {"walrus_export": FORMAT, "exported_at": exported_at, "version": version, "session": described}
    return _encode(told)[:-1] + b',\n"ancestors":['


def ancestor(session: int, upto: int, *, first: bool) -> bytes:
    return b'%b\n{"session":%d,"upto":%d,"events":[' % (b"" if first else b",", session, upto)


ANCESTOR_ENDS = b"]}"
EVENTS = b'],\n"events":['
OUTPUTS = b'],\n"outputs":['
KEYS = b'],\n"keys":['
END = b"]}\n"


def events(rows: Sequence[Stored]) -> bytes:
    """A page of a log, each event as on the wire but for its offset; the first of all has no comma in front."""
    return b"".join(b'%b\n{"seq":%d,%b' % (b"," if row.seq > 1 else b"", row.seq, row.body[1:]) for row in rows)


def output_begins(ref: str, *, first: bool) -> bytes:
    return b'%b\n{"ref":%b,"text":"' % (b"" if first else b",", _encode(ref))


def output_goes_on(text: str) -> bytes:
    return _encode(text)[1:-1]


OUTPUT_ENDS = b'"}'


def key(used: UsedKey, *, first: bool) -> bytes:
    return b"%b\n%b" % (b"" if first else b",", _encode(used))


class Member(NamedTuple):
    """One that stands for itself: walrus_export, exported_at, version, session."""

    name: str
    text: str


class Ancestor(NamedTuple):
    """What is said of the ancestor at this place: session or upto."""

    at: int
    name: str
    text: str


class Told(NamedTuple):
    """An event, of the session itself or of the ancestor at that place."""

    ancestor: int | None
    at: int
    text: str

    @property
    def place(self) -> str:
        within = "" if self.ancestor is None else f"ancestors[{self.ancestor}]."
        return f"{within}events[{self.at}]"


class Kept(NamedTuple):
    at: int
    text: str

    @property
    def place(self) -> str:
        return f"outputs[{self.at}]"


class Used(NamedTuple):
    at: int
    text: str

    @property
    def place(self) -> str:
        return f"keys[{self.at}]"


Piece = Member | Ancestor | Told | Kept | Used

SINGLE = ("walrus_export", "exported_at", "version", "session")
LISTS = ("ancestors", "events", "outputs", "keys")
OF_ANCESTOR = ("session", "upto", "events")


def pieces(read: Callable[[], str]) -> Iterator[Piece]:
    """All pieces of the document, in the order in which they stand. Raises Bad for what is none.

    `read` gives the text, a part at a time, and "" at its end. All members are there when the last piece has come.
    """
    cutter = Cutter(read)
    try:
        missing = {*SINGLE, *LISTS}
        for name in cutter.members():
            _known(name, (*SINGLE, *LISTS), "")
            missing.discard(name)
            match name:
                case "ancestors":
                    yield from _ancestors(cutter)
                case "events":
                    yield from _events(cutter, None)
                case "outputs":
                    yield from (Kept(at, cutter.value()) for at in cutter.elements())
                case "keys":
                    yield from (Used(at, cutter.value()) for at in cutter.elements())
                case _:
                    yield Member(name, cutter.value())
        cutter.end()
        _complete(missing, "")
    except Malformed as malformed:
        raise Bad("the document", malformed) from malformed


def _ancestors(cutter: Cutter) -> Iterator[Piece]:
    for at in cutter.elements():
        missing = {*OF_ANCESTOR}
        for name in cutter.members():
            _known(name, OF_ANCESTOR, f"ancestors[{at}].")
            missing.discard(name)
            if name == "events":
                yield from _events(cutter, at)
            else:
                yield Ancestor(at, name, cutter.value())
        _complete(missing, f"ancestors[{at}].")


def _events(cutter: Cutter, ancestor: int | None) -> Iterator[Told]:
    return (Told(ancestor, at, cutter.value()) for at in cutter.elements())


def _known(name: str, names: Sequence[str], within: str) -> None:
    if name not in names:
        raise Bad(f"{within}{name[:80]}", f"this walrusd does not know it; it knows {', '.join(names)}")


def _complete(missing: set[str], within: str) -> None:
    if missing:
        raise Bad(within + min(missing), "it is missing")
