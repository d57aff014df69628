"""All that was ever durable, as the store told it: never thrown away, so that what is left can be compared with it."""

from collections.abc import Iterable, Sequence

from tests.runtime.model_based.history_model import HistoryModel
from tests.runtime.model_based.store_contents import StoreContents
from walrus_protocol.events import AnySessionEvent, SessionCreated, decode_row, insert_position
from walrusd.store.contract import DAEMON_SESSION, EventRow, Write


class Archive:
    """Of a whole story. Writes are noted in the instant in which the store tells that they are durable."""

    def __init__(self) -> None:
        self.rows: dict[int, list[EventRow]] = {DAEMON_SESSION: []}
        self.logs: dict[int, list[AnySessionEvent]] = {}
        self.imported_rows: dict[int, int] = {}
        """Of sessions, and of their ancestors, that came by an import: how many of their rows did."""
        self.expired: set[int] = set()
        self.released: set[tuple[int, str]] = set()
        """Outputs that were thrown away, each with the session that had it."""
        self.outputs: set[tuple[int, str]] = set()
        """Outputs that there are, likewise."""
        self.by_offset: dict[int, tuple[int, EventRow]] = {}
        """Every row, in that order, with its session."""
        self.last_offset = 0
        self._unlisted: set[int] = set()
        """Sessions that an import has announced and not finished; its ancestors stay among them."""
        self._submitted_releases: set[tuple[int, str]] = set()

    def note_submitted(self, write: Write) -> None:
        """It was handed over; whether it is ever durable is not known."""
        self._submitted_releases.update(write.released_outputs)

    def note_durable(self, write: Write, offset: int) -> None:
        self._unlisted.update(write.pending_imports)
        for place, body in enumerate(write.bodies):
            self._add(write.session, EventRow(write.first_seq + place, offset + place, body))
        if write.imported:
            self._unlisted.discard(write.imported.session_state.id)
        if write.output:
            self.outputs.add((write.session, write.output.ref))
        self.released.update(write.released_outputs)
        self._expire(write.expired_sessions)

    def adopt_unreported(self, contents: StoreContents) -> int:
        """Take what the store has that nobody was told of; how many rows that were."""
        known = len(self.by_offset)
        self._unlisted -= contents.rows.keys()  # the end of an import was the last thing to be written
        found = {**contents.inherited_rows, **contents.rows, DAEMON_SESSION: contents.daemon_rows}
        untold = [(row.offset, at, row) for at, rows in found.items() for row in rows[len(self.rows.get(at, ())) :]]
        for _, session, row in sorted(untold):
            self._add(session, row)
        self.released |= self._submitted_releases & (self.outputs - contents.outputs)
        self._expire(contents.expired_sessions())
        self.check(contents)
        return len(self.by_offset) - known

    def check(self, contents: StoreContents) -> None:
        """That the store has every row of every session that is to be there, as it was, and no other session."""
        there = self.rows.keys() - self.expired - self._unlisted - {DAEMON_SESSION}
        assert contents.rows.keys() == there, "what was made is there until it expires, and no longer"
        for session, rows in contents.rows.items():
            assert rows == self.rows[session], f"session {session}: nothing is ever changed or lost"
        for session, rows in contents.inherited_rows.items():
            assert rows == self.rows[session][: len(rows)], f"session {session}: what a fork reads of it stays"
        assert contents.daemon_rows == self.rows[DAEMON_SESSION]
        assert contents.expired_sessions() == self.expired, "of each that expires there is a fact"
        kept = {(session, ref) for session, ref in self.outputs if session in contents.rows}
        assert kept <= contents.outputs, "who has an output can read it"

    def histories(self) -> HistoryModel:
        return HistoryModel(self.logs)

    def events_since(self, offset: int) -> list[AnySessionEvent]:
        """What happened here in sessions, in order: nothing that was imported did."""
        return [
            self.logs[session][row.seq - 1]
            for place, (session, row) in self.by_offset.items()
            if place > offset and session != DAEMON_SESSION and row.seq > self.imported_rows.get(session, 0)
        ]

    def native_logs(self) -> list[Sequence[AnySessionEvent]]:
        """The logs, each but for what was imported."""
        return [log[self.imported_rows.get(session, 0) :] for session, log in self.logs.items()]

    def wire_bytes(self, offset: int) -> bytes:
        session, row = self.by_offset[offset]
        return insert_position(row.body, None if session == DAEMON_SESSION else row.seq, offset)

    def expected_offsets(self, since: int, upto: int) -> list[int]:
        """Offsets of what whoever follows all of it has to be told: of all that is still there and was no import."""
        gone = self.expired | self._unlisted
        return [
            offset
            for offset, (session, row) in self.by_offset.items()
            if since < offset <= upto and session not in gone and row.seq > self.imported_rows.get(session, 0)
        ]

    def existing_offsets(self) -> list[int]:
        """Offsets of all that whoever reads it from its beginning has to be told."""
        gone = self.expired | self._unlisted
        return [offset for offset, (session, _) in self.by_offset.items() if session not in gone]

    def _add(self, session: int, row: EventRow) -> None:
        rows = self.rows.setdefault(session, [])
        assert row.seq == len(rows) + 1, "no gaps"
        assert row.offset > self.last_offset, "offsets rise"
        rows.append(row)
        self.last_offset = row.offset
        self.by_offset[row.offset] = session, row
        if session != DAEMON_SESSION:
            event = decode_row(row.body)
            self.logs.setdefault(session, []).append(event)
            if session not in self._unlisted and isinstance(event, SessionCreated) and event.parent:
                assert event.parent.session not in self.expired, "what is being forked stays"
        if session in self._unlisted:
            self.imported_rows[session] = row.seq

    def _expire(self, sessions: Iterable[int]) -> None:
        self.expired.update(sessions)
        self.outputs = {(at, ref) for at, ref in self.outputs if at not in self.expired} - self.released
