"""Checks of exported documents, and of the sessions imported from them."""

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from tests.runtime.model_based.archive import Archive
from walrus_protocol.events import AnySessionEvent, Done, Parent, SessionCreated, ToolResult, UserMessage
from walrusd.store.contract import Log
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.idempotency_key import read_key


class ExportedSession(Struct, kw_only=True):
    """A document of an exported session."""

    session: int
    known_seq: int
    """The last known seq of the session when the export was requested."""
    text: str
    data: dict[str, Any]
    is_checked: bool = False

    @classmethod
    def parse(cls, text: str, session: int, known_seq: int) -> "ExportedSession":
        """Decodes a document."""
        return cls(session=session, known_seq=known_seq, text=text, data=json.loads(text))

    @property
    def last_seq(self) -> int:
        """The last seq that was exported."""
        last_seq: int = self.data["session"]["last_seq"]
        return last_seq

    @property
    def keys(self) -> set[str]:
        """The idempotency keys in the document."""
        return {item["key"] for item in self.data["keys"]}

    def check(self, archive: Archive) -> None:
        """Checks that it is the session at a moment without an open turn, not earlier than the last known one."""
        if self.is_checked:
            return
        log = archive.logs[self.session]
        assert last_idle_seq(log, self.last_seq) == self.last_seq >= last_idle_seq(log, self.known_seq)
        assert self.data["session"]["id"] == self.session
        logs = [(self.session, self.last_seq), *_fork_points(archive, self.session)][::-1]
        assert self._logs() == [_events(archive.rows[session][:upto]) for session, upto in logs]
        assert [(ancestor["session"], ancestor["upto"]) for ancestor in self.data["ancestors"]] == logs[:-1]
        exported = log[: self.last_seq]
        assert self.keys == {
            event.key for event in exported if isinstance(event, UserMessage) and event.key is not None
        }
        referenced = {event.ref for event in exported if isinstance(event, ToolResult) and event.ref is not None}
        included = {(self.session, output["ref"]) for output in self.data["outputs"]}
        if not archive.imported_rows.get(self.session):
            assert {(self.session, ref) for ref in referenced} - included <= archive.released, (
                "it has every output that was not deleted"
            )
        self.is_checked = True

    async def check_import(self, session: int, archive: Archive, log: Log) -> None:
        """Checks that the imported session equals the exported one."""
        points = _fork_points(archive, session)
        ids = dict(
            zip([old["session"] for old in self.data["ancestors"]][::-1], [new for new, _ in points], strict=True)
        )
        ids[self.session] = session
        logs = [(session, self.last_seq), *points][::-1]
        assert self._logs(ids) == [_events(archive.rows[at][:upto]) for at, upto in logs]
        histories = archive.histories()
        assert (
            histories.after_each_event(session)[1 : self.last_seq + 1]
            == histories.after_each_event(self.session)[1 : self.last_seq + 1]
        )
        for key in self.keys:
            stored = await log.read(read_key, session, key)
            digests = {item["digest"] for item in self.data["keys"] if item["key"] == key}
            assert stored is not None, "idempotency keys are imported"
            assert {stored.digest.hex()} == digests
        for output in self.data["outputs"]:
            if (session, output["ref"]) not in archive.released:
                assert (session, output["ref"]) in archive.outputs

    def _logs(self, ids: dict[int, int] | None = None) -> list[list[dict[str, Any]]]:
        """Returns the events of each log, the oldest session first, with ids replaced by those in `ids`."""
        logs: list[list[dict[str, Any]]] = json.loads(
            json.dumps([ancestor["events"] for ancestor in self.data["ancestors"]])
        )
        logs.append(json.loads(json.dumps(self.data["events"])))
        for event in (event for log in logs for event in log):
            if ids is not None:
                event["session"] = ids[event["session"]]
                if event.get("parent"):
                    event["parent"]["session"] = ids[event["parent"]["session"]]
        return logs


def last_idle_seq(log: Sequence[AnySessionEvent], upto: int) -> int:
    """Returns the last seq up to `upto` at which no turn is open."""
    last, is_open = 0, False
    for seq, event in enumerate(log[:upto], 1):
        is_open = isinstance(event, UserMessage) or (is_open and not isinstance(event, Done))
        last = last if is_open else seq
    return last


def _fork_points(archive: Archive, session: int) -> list[tuple[int, int]]:
    """Returns the ancestors of a session, each with the seq of the fork, the nearest first."""
    points: list[tuple[int, int]] = []
    parent = _parent(archive, session)
    while parent is not None:
        points.append((parent.session, parent.seq))
        parent = _parent(archive, parent.session)
    return points


def _parent(archive: Archive, session: int) -> Parent | None:
    created = archive.logs[session][0]
    assert isinstance(created, SessionCreated)
    return created.parent


def _events(rows: Sequence[EventRow]) -> list[dict[str, Any]]:
    return [{"seq": row.seq, **json.loads(row.body)} for row in rows]
