"""Reads the contents of a store through its Log, and checks that tables and events agree."""

from tests.runtime.model_based.scripted_model import FULL_OUTPUT
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import (
    AnySessionEvent,
    Done,
    SessionCreated,
    SessionsExpired,
    UserMessage,
    decode,
    decode_row,
)
from walrusd.session.session import Session
from walrusd.store.contract import Log
from walrusd.store.tables.draft import read_draft
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.idempotency_key import read_key
from walrusd.store.tables.inbox import InboxEntry, read_inbox
from walrusd.store.tables.output import read_output
from walrusd.store.tables.session import SessionFilter
from walrusd.store.tables.turn import TurnSpan, read_turn_span


class StoreContents:
    """The contents of a store at one moment."""

    def __init__(self) -> None:
        self.rows: dict[int, list[EventRow]] = {}
        """Rows of the listed sessions."""
        self.inherited_rows: dict[int, list[EventRow]] = {}
        """Rows of sessions that are not listed, up to where a fork inherits them."""
        self.daemon_rows: list[EventRow] = []
        self.sessions: dict[int, Session] = {}
        self.inboxes: dict[int, list[InboxEntry]] = {}
        self.outputs: set[tuple[int, str]] = set()
        """(session, ref) of stored outputs; only FULL_OUTPUT exists in these tests."""
        self._events: dict[int, list[AnySessionEvent]] = {}

    @classmethod
    async def read(cls, log: Log) -> "StoreContents":
        """Reads everything. Raises AssertionError if other tables do not agree with the events."""
        contents = cls()
        contents.daemon_rows = await _all_rows(log, DAEMON_SESSION)
        for state, queued in await log.list_sessions(SessionFilter(include_closed=True, limit=500)):
            rows = await _all_rows(log, state.id)
            assert [row.seq for row in rows] == list(range(1, len(rows) + 1)), "no gaps"
            session = Session(state.id)
            events = [decode_row(row.body) for row in rows]
            for event in events:
                session.apply(event)
            assert session.state == state, "the stored state is the result of the events"
            inbox = await log.read(read_inbox, state.id)
            assert queued == sum(entry.kind != "close" for entry in inbox)
            if session.turn is None:
                assert await log.read(read_draft, state.id) is None, "only an open turn has a draft"
            if state.state == "closed":
                assert inbox == []
            contents.rows[state.id], contents.sessions[state.id], contents.inboxes[state.id] = rows, session, inbox
            contents._events[state.id] = events
            await contents._check_turns(log, state.id)
            if body := await log.read(read_output, state.id, FULL_OUTPUT.ref, 0, 2 * len(FULL_OUTPUT.body)):
                assert body == FULL_OUTPUT.body
                contents.outputs.add((state.id, FULL_OUTPUT.ref))
        for listed in [*contents.rows]:
            await contents._read_ancestors(log, listed)
        offsets = [row.offset for rows in (contents.daemon_rows, *contents.rows.values()) for row in rows]
        assert len(set(offsets)) == len(offsets)
        return contents

    async def _check_turns(self, log: Log, session: int) -> None:
        spans: dict[int, TurnSpan] = {}
        for seq, event in enumerate(self.events(session), 1):
            if isinstance(event, UserMessage | Done):
                assert event.turn is not None
                first = spans[event.turn].first_seq if event.turn in spans else seq
                spans[event.turn] = TurnSpan(first, seq if isinstance(event, Done) else None)
            if isinstance(event, UserMessage) and event.key is not None:
                stored = await log.read(read_key, session, event.key)
                assert stored is not None
                assert stored.turn == event.turn
        for turn, span in spans.items():
            assert await log.read(read_turn_span, session, turn) == span

    def events(self, session: int) -> list[AnySessionEvent]:
        return self._events[session]

    def expired_sessions(self) -> set[int]:
        """Returns the sessions whose expiry is recorded as a daemon event."""
        events = [decode(row.body) for row in self.daemon_rows]
        return {session for event in events if isinstance(event, SessionsExpired) for session in event.sessions}

    async def _read_ancestors(self, log: Log, session: int) -> None:
        """Reads inherited rows of unlisted ancestors. Raises AssertionError if some are missing."""
        created = self._events[session][0]
        assert isinstance(created, SessionCreated)
        while (parent := created.parent) is not None and parent.session not in self.rows:
            rows = await log.events(parent.session, 0, parent.seq)
            assert [row.seq for row in rows] == list(range(1, parent.seq + 1)), (
                f"session {session} inherits all rows of {parent}"
            )
            if len(rows) > len(self.inherited_rows.get(parent.session, ())):
                self.inherited_rows[parent.session] = rows
            first = decode_row(rows[0].body)
            assert isinstance(first, SessionCreated)
            created = first


async def _all_rows(log: Log, session: int) -> list[EventRow]:
    rows: list[EventRow] = []
    while page := await log.events(session, rows[-1].seq if rows else 0, 7):
        rows += page
    return rows
