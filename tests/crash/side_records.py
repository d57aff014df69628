"""What a life leaves behind beside its log: what was acknowledged, told and seen. SIGKILL takes none of it away."""

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from walrus_protocol.events import AnyEvent, AnySessionEvent, encode
from walrus_protocol.json import decode
from walrusd.session.recovery import Draft

RecordKind = Literal[
    "life", "created", "accepted", "result", "forked", "checkpoint", "rewound", "refused", "drafted", "wrong"
]


class SideRecord(Struct, frozen=True, array_like=True):
    kind: RecordKind
    subject: str
    value: msgspec.Raw


class PublishedEvent(Struct, frozen=True, array_like=True):
    session: int
    event: msgspec.Raw


class OpenTurn(Struct, frozen=True, array_like=True):
    """A turn that a life has found open, in a log that went as far as `seq`."""

    session: int
    turn: int
    seq: int


class SideRecords:
    """Two files in the folder of the life; the next life writes on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._records = os.open(folder / "notes", flags)
        self._published = os.open(folder / "published", flags)

    def write(self, kind: RecordKind, subject: str = "", value: object = None) -> None:
        os.write(self._records, msgspec.json.encode((kind, subject, value)) + b"\n")

    def record_draft(self, session: int, draft: Draft) -> None:
        self.write("drafted", f"{session}.{draft.turn}.{draft.round}", draft.text)

    def record_published(self, event: AnyEvent) -> None:
        if isinstance(event, AnySessionEvent) and event.session is not None:
            os.write(self._published, msgspec.json.encode((event.session, msgspec.Raw(encode(event)))) + b"\n")

    def read(self, *kinds: RecordKind) -> list[SideRecord]:
        lines = _lines(self._folder / "notes")
        return [note for line in lines if (note := decode(line, SideRecord)).kind in kinds]

    def read_published(self) -> list[PublishedEvent]:
        return [decode(line, PublishedEvent) for line in _lines(self._folder / "published")]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()
