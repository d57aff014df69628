"""Sessions that are exported and imported again: what a document says, and what is made of it."""

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from tests.runtime.model_based.archive import Archive
from walrus_protocol.events import AnySessionEvent, Done, Parent, SessionCreated, ToolResult, UserMessage
from walrusd.store.contract import EventRow, Log


class ExportedSession(Struct, kw_only=True):
    """One that was exported."""

    session: int
    known_seq: int
    """The session had come that far when it was asked for."""
    text: str
    data: dict[str, Any]
    is_checked: bool = False

    @classmethod
    def parse(cls, text: str, session: int, known_seq: int) -> "ExportedSession":
        return cls(session=session, known_seq=known_seq, text=text, data=json.loads(text))

    @property
    def last_seq(self) -> int:
        last_seq: int = self.data["session"]["last_seq"]
        return last_seq

    @property
    def keys(self) -> set[str]:
        return {used["key"] for used in self.data["keys"]}

    def check(self, archive: Archive) -> None:
        """That it is the session as it stood at a rest, and not before the last one that there was."""
        if self.is_checked:
            return
        log = archive.logs[self.session]
        assert last_idle_seq(log, self.last_seq) == self.last_seq >= last_idle_seq(log, self.known_seq)
        assert self.data["session"]["id"] == self.session
        logs = [(self.session, self.last_seq), *_fork_points(archive, self.session)][::-1]
        assert self._logs() == [_events(archive.rows[at][:upto]) for at, upto in logs]
        assert [(one["session"], one["upto"]) for one in self.data["ancestors"]] == logs[:-1]
        said = log[: self.last_seq]
        assert self.keys == {event.key for event in said if isinstance(event, UserMessage) and event.key is not None}
        named = {event.ref for event in said if isinstance(event, ToolResult) and event.ref is not None}
        kept = {(self.session, output["ref"]) for output in self.data["outputs"]}
        if not archive.imported_rows.get(self.session):
            assert {(self.session, ref) for ref in named} - kept <= archive.released, "it holds what the session had"
        self.is_checked = True

    async def check_import(self, session: int, archive: Archive, log: Log) -> None:
        """That the session which was made of it is the one that was exported."""
        points = _fork_points(archive, session)
        ids = dict(zip([one["session"] for one in self.data["ancestors"]][::-1], [at for at, _ in points], strict=True))
        ids[self.session] = session
        here = [(session, self.last_seq), *points][::-1]
        assert self._logs(ids) == [_events(archive.rows[at][:upto]) for at, upto in here]
        pasts = archive.histories()
        assert (
            pasts.after_each_event(session)[1 : self.last_seq + 1]
            == pasts.after_each_event(self.session)[1 : self.last_seq + 1]
        )
        for key in self.keys:
            there = await log.idempotency_key(session, key)
            digests = {used["digest"] for used in self.data["keys"] if used["key"] == key}
            assert there is not None, "keys hold"
            assert {there.digest.hex()} == digests
        for output in self.data["outputs"]:
            if (session, output["ref"]) not in archive.released:
                assert (session, output["ref"]) in archive.outputs

    def _logs(self, ids: dict[int, int] | None = None) -> list[list[dict[str, Any]]]:
        """The events of each, the oldest first; where `ids` are given, with these."""
        logs: list[list[dict[str, Any]]] = json.loads(json.dumps([one["events"] for one in self.data["ancestors"]]))
        logs.append(json.loads(json.dumps(self.data["events"])))
        for event in (event for log in logs for event in log):
            if ids is not None:
                event["session"] = ids[event["session"]]
                if event.get("parent"):
                    event["parent"]["session"] = ids[event["parent"]["session"]]
        return logs


def last_idle_seq(log: Sequence[AnySessionEvent], upto: int) -> int:
    """The last seq up to there at which no turn is open."""
    last, is_open = 0, False
    for seq, event in enumerate(log[:upto], 1):
        is_open = isinstance(event, UserMessage) or (is_open and not isinstance(event, Done))
        last = last if is_open else seq
    return last


def _fork_points(archive: Archive, session: int) -> list[tuple[int, int]]:
    """What a session goes on from: of which session up to where, the latest first."""
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
