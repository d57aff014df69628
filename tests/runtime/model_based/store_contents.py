"""All that a store has, read through the log's own door; and that what is kept beside the log says the same."""

from tests.runtime.model_based.scripted_model import FULL_OUTPUT
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
from walrusd.store.contract import DAEMON_SESSION, EventRow, InboxEntry, Log, SessionFilter, TurnSpan


class StoreContents:
    """All that a store has at one moment."""

    def __init__(self) -> None:
        self.rows: dict[int, list[EventRow]] = {}
        """Of the sessions that are listed."""
        self.inherited_rows: dict[int, list[EventRow]] = {}
        """Of those that are not: what others read of them."""
        self.daemon_rows: list[EventRow] = []
        self.sessions: dict[int, Session] = {}
        self.inboxes: dict[int, list[InboxEntry]] = {}
        self.outputs: set[tuple[int, str]] = set()
        """Who has the output that tools give here, by session and ref."""
        self._events: dict[int, list[AnySessionEvent]] = {}

    @classmethod
    async def read(cls, log: Log) -> "StoreContents":
        """Raises AssertionError where what is kept beside the log is not what the log says."""
        facts = cls()
        facts.daemon_rows = await _all_rows(log, DAEMON_SESSION)
        for outline, queued in await log.list_sessions(SessionFilter(include_closed=True, limit=500)):
            rows = await _all_rows(log, outline.id)
            assert [row.seq for row in rows] == list(range(1, len(rows) + 1)), "no gaps"
            session = Session(outline.id)
            events = [decode_row(row.body) for row in rows]
            for event in events:
                session.apply(event)
            assert session.state == outline, "the outline is the fold of the events"
            inbox = await log.inbox(outline.id)
            assert queued == sum(entry.kind != "close" for entry in inbox)
            if session.turn is None:
                assert await log.draft(outline.id) is None, "a draft is of an open turn"
            if outline.state == "closed":
                assert inbox == []
            facts.rows[outline.id], facts.sessions[outline.id], facts.inboxes[outline.id] = rows, session, inbox
            facts._events[outline.id] = events
            await facts._check_turns(log, outline.id)
            if body := await log.output(outline.id, FULL_OUTPUT.ref, 0, 2 * len(FULL_OUTPUT.body)):
                assert body == FULL_OUTPUT.body
                facts.outputs.add((outline.id, FULL_OUTPUT.ref))
        for listed in [*facts.rows]:
            await facts._read_ancestors(log, listed)
        offsets = [row.offset for rows in (facts.daemon_rows, *facts.rows.values()) for row in rows]
        assert len(set(offsets)) == len(offsets)
        return facts

    async def _check_turns(self, log: Log, session: int) -> None:
        spans: dict[int, TurnSpan] = {}
        for seq, event in enumerate(self.events(session), 1):
            if isinstance(event, UserMessage | Done):
                assert event.turn is not None
                first = spans[event.turn].first_seq if event.turn in spans else seq
                spans[event.turn] = TurnSpan(first, seq if isinstance(event, Done) else None)
            if isinstance(event, UserMessage) and event.key is not None:
                sent = await log.idempotency_key(session, event.key)
                assert sent is not None
                assert sent.turn == event.turn
        for turn, span in spans.items():
            assert await log.turn_span(session, turn) == span

    def events(self, session: int) -> list[AnySessionEvent]:
        return self._events[session]

    def expired_sessions(self) -> set[int]:
        """Those of which a fact says so."""
        facts = [decode(row.body) for row in self.daemon_rows]
        return {session for fact in facts if isinstance(fact, SessionsExpired) for session in fact.sessions}

    async def _read_ancestors(self, log: Log, session: int) -> None:
        """Raises AssertionError where the log of one has not all that is read of it."""
        created = self._events[session][0]
        assert isinstance(created, SessionCreated)
        while (parent := created.parent) is not None and parent.session not in self.rows:
            rows = await log.events(parent.session, 0, parent.seq)
            assert [row.seq for row in rows] == list(range(1, parent.seq + 1)), f"{parent} is read by session {session}"
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
