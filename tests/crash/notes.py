"""What a life leaves behind beside its log: what was acknowledged, told and seen. SIGKILL takes none of it away."""

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from walrus_protocol.events import AnyEvent, Durable, encode
from walrus_protocol.json import decode
from walrusd.session.mend import Draft

What = Literal[
    "life", "created", "accepted", "result", "forked", "checkpoint", "rewound", "refused", "drafted", "wrong"
]


class Note(Struct, frozen=True, array_like=True):
    what: What
    about: str
    value: msgspec.Raw


class Published(Struct, frozen=True, array_like=True):
    session: int
    event: msgspec.Raw


class LeftOpen(Struct, frozen=True, array_like=True):
    """A turn that a life has found open, in a log that went as far as `seq`."""

    session: int
    turn: int
    seq: int


class Notes:
    """Two files in the folder of the life; the next life writes on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._notes = os.open(folder / "notes", flags)
        self._published = os.open(folder / "published", flags)

    def write(self, what: What, about: str = "", value: object = None) -> None:
        os.write(self._notes, msgspec.json.encode((what, about, value)) + b"\n")

    def drafted(self, session: int, draft: Draft) -> None:
        self.write("drafted", f"{session}.{draft.turn}.{draft.round}", draft.text)

    def see(self, event: AnyEvent) -> None:
        if isinstance(event, Durable) and event.session is not None:
            os.write(self._published, msgspec.json.encode((event.session, msgspec.Raw(encode(event)))) + b"\n")

    def read(self, *what: What) -> list[Note]:
        lines = _lines(self._folder / "notes")
        return [note for line in lines if (note := decode(line, Note)).what in what]

    def published(self) -> list[Published]:
        return [decode(line, Published) for line in _lines(self._folder / "published")]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()
