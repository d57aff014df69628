"""A record of everything that was ever durable in a scenario, to compare the store with."""

from collections.abc import Iterable, Sequence

from tests.runtime.model_based.history_model import HistoryModel
from tests.runtime.model_based.store_contents import StoreContents
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import AnySessionEvent, SessionCreated, decode_row, insert_position
from walrusd.store.contract import Write
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.output import AddOutput, ReleaseOutput
from walrusd.store.tables.remains import AddUnlisted
from walrusd.store.tables.session import ListImported


class Archive:
    """Every durable row of a scenario. A write is noted when the store reports it as durable."""

    def __init__(self) -> None:
        self.rows: dict[int, list[EventRow]] = {DAEMON_SESSION: []}
        self.logs: dict[int, list[AnySessionEvent]] = {}
        self.imported_rows: dict[int, int] = {}
        """Number of imported rows, by session; ancestors of imported sessions are included."""
        self.expired: set[int] = set()
        self.released: set[tuple[int, str]] = set()
        """(session, ref) of outputs that were deleted."""
        self.outputs: set[tuple[int, str]] = set()
        """(session, ref) of outputs that exist."""
        self.by_offset: dict[int, tuple[int, EventRow]] = {}
        """Every row with its session, in the order of offsets."""
        self.last_offset = 0
        self._unlisted: set[int] = set()
        """Sessions of an import that is not finished, and the ancestors that an import brings along."""
        self._submitted_releases: set[tuple[int, str]] = set()

    def note_submitted(self, write: Write) -> None:
        """Notes a write that the store was given; it may never be durable."""
        for mutation in write.mutations:
            match mutation:
                case ReleaseOutput(session, ref):
                    self._submitted_releases.add((session, ref))
                case _:
                    pass

    def note_durable(self, write: Write, offset: int) -> None:
        """Notes a write that is durable, with the offset of its first event."""
        for index, body in enumerate(write.bodies):
            self._add(write.session, EventRow(write.first_seq + index, offset + index, body))
        for mutation in write.mutations:
            match mutation:
                case AddUnlisted(session):
                    self._unlisted.add(session)
                case ListImported(session_state=state):
                    self._unlisted.discard(state.id)
                case AddOutput(output):
                    self.outputs.add((write.session, output.ref))
                case ReleaseOutput(session, ref):
                    self.released.add((session, ref))
                    self.outputs.discard((session, ref))
                case ExpireSession(session):
                    self._expire([session])
                case _:
                    pass

    def adopt_unreported(self, contents: StoreContents) -> int:
        """Adds rows that are durable although the store did not report them; returns their number."""
        known = len(self.by_offset)
        self._unlisted -= contents.rows.keys()  # the last, unreported write may have finished an import
        found = {**contents.inherited_rows, **contents.rows, DAEMON_SESSION: contents.daemon_rows}
        unreported = [
            (row.offset, session, row)
            for session, rows in found.items()
            for row in rows[len(self.rows.get(session, ())) :]
        ]
        for _, session, row in sorted(unreported):
            self._add(session, row)
        self.released |= self._submitted_releases & (self.outputs - contents.outputs)
        self._expire(contents.expired_sessions())
        self.check(contents)
        return len(self.by_offset) - known

    def check(self, contents: StoreContents) -> None:
        """Checks that the store has all rows of the sessions that should exist, and no other session."""
        expected = self.rows.keys() - self.expired - self._unlisted - {DAEMON_SESSION}
        assert contents.rows.keys() == expected, "a created session exists until it expires"
        for session, rows in contents.rows.items():
            assert rows == self.rows[session], f"session {session}: rows are never changed or lost"
        for session, rows in contents.inherited_rows.items():
            assert rows == self.rows[session][: len(rows)], f"session {session}: rows that a fork inherits are kept"
        assert contents.daemon_rows == self.rows[DAEMON_SESSION]
        assert contents.expired_sessions() == self.expired, "each expiry is recorded as a daemon event"
        readable = {(session, ref) for session, ref in self.outputs if session in contents.rows}
        assert readable <= contents.outputs, "a session can read its outputs"

    def histories(self) -> HistoryModel:
        return HistoryModel(self.logs)

    def events_since(self, offset: int) -> list[AnySessionEvent]:
        """Returns the sessions' events after `offset`, in order, without imported ones."""
        return [
            self.logs[session][row.seq - 1]
            for row_offset, (session, row) in self.by_offset.items()
            if row_offset > offset and session != DAEMON_SESSION and row.seq > self.imported_rows.get(session, 0)
        ]

    def native_logs(self) -> list[Sequence[AnySessionEvent]]:
        """Returns the logs, without imported events."""
        return [log[self.imported_rows.get(session, 0) :] for session, log in self.logs.items()]

    def wire_bytes(self, offset: int) -> bytes:
        """Returns the event at `offset` as it is sent to subscribers."""
        session, row = self.by_offset[offset]
        return insert_position(row.body, None if session == DAEMON_SESSION else row.seq, offset)

    def expected_offsets(self, since: int, upto: int) -> list[int]:
        """Returns the offsets that a subscriber to all events must receive: of existing, not imported events."""
        hidden = self.expired | self._unlisted
        return [
            offset
            for offset, (session, row) in self.by_offset.items()
            if since < offset <= upto and session not in hidden and row.seq > self.imported_rows.get(session, 0)
        ]

    def existing_offsets(self) -> list[int]:
        """Returns the offsets that a subscriber from the beginning must receive."""
        hidden = self.expired | self._unlisted
        return [offset for offset, (session, _) in self.by_offset.items() if session not in hidden]

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
                assert event.parent.session not in self.expired, "a session is not deleted while it is forked"
        if session in self._unlisted:
            self.imported_rows[session] = row.seq

    def _expire(self, sessions: Iterable[int]) -> None:
        self.expired.update(sessions)
        self.outputs = {(session, ref) for session, ref in self.outputs if session not in self.expired} - self.released
