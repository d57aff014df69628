"""Records outside a run's log: acknowledgements, results and published events. They survive SIGKILL."""

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from walrus_protocol.events import AnyEvent, AnySessionEvent, encode
from walrus_protocol.json import decode
from walrusd.session.recovery import Draft

RecordKind = Literal[
    "start", "created", "accepted", "result", "forked", "checkpoint", "rewound", "refused", "draft", "violation"
]


class SideRecord(Struct, frozen=True, array_like=True):
    kind: RecordKind
    subject: str
    value: msgspec.Raw


class PublishedEvent(Struct, frozen=True, array_like=True):
    session: int
    event: msgspec.Raw


class OpenTurn(Struct, frozen=True, array_like=True):
    """A turn that a start of the daemon found open; `seq` is the last of its session's log."""

    session: int
    turn: int
    seq: int


class SideRecords:
    """Two files in the home of a run; the next run in the same home appends to them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._records = os.open(folder / "records", flags)
        self._published = os.open(folder / "published", flags)

    def write(self, kind: RecordKind, subject: str = "", value: object = None) -> None:
        os.write(self._records, msgspec.json.encode((kind, subject, value)) + b"\n")

    def record_draft(self, session: int, draft: Draft) -> None:
        self.write("draft", f"{session}.{draft.turn}.{draft.round}", draft.text)

    def record_published(self, event: AnyEvent) -> None:
        if isinstance(event, AnySessionEvent) and event.session is not None:
            os.write(self._published, msgspec.json.encode((event.session, msgspec.Raw(encode(event)))) + b"\n")

    def read(self, *kinds: RecordKind) -> list[SideRecord]:
        lines = _lines(self._folder / "records")
        return [record for line in lines if (record := decode(line, SideRecord)).kind in kinds]

    def read_published(self) -> list[PublishedEvent]:
        return [decode(line, PublishedEvent) for line in _lines(self._folder / "published")]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()
