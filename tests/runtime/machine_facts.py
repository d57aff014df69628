"""All that a log says, read through the log's own door; and that what is kept beside it says the same."""

from tests.runtime.machine_past import Pasts
from walrus_protocol.events import Done, Durable, UserMessage, decode_row
from walrusd.session.session import Session
from walrusd.store.log import Filter, Log, Queued, Span, Stored


class Facts:
    """All that a log says."""

    def __init__(self) -> None:
        self.rows: dict[int, list[Stored]] = {}
        self.sessions: dict[int, Session] = {}
        self.inboxes: dict[int, list[Queued]] = {}
        self._events: dict[int, list[Durable]] = {}
        self.pasts = Pasts(self._events)

    @classmethod
    async def of(cls, log: Log) -> "Facts":
        """Raises AssertionError where what is kept beside the log is not what the log says."""
        facts = cls()
        for outline, queued in await log.outlines(Filter(include_closed=True, limit=500)):
            rows: list[Stored] = []
            while page := await log.events(outline.id, len(rows), 7):
                rows += page
            assert [row.seq for row in rows] == list(range(1, len(rows) + 1)), "no gaps"
            session = Session(outline.id)
            events = [decode_row(row.body) for row in rows]
            for event in events:
                session.apply(event)
            assert session.outline == outline, "the outline is the fold of the events"
            inbox = await log.queue(outline.id)
            assert queued == sum(entry.kind != "close" for entry in inbox)
            if session.turn is None:
                assert await log.draft(outline.id) is None, "a draft is of an open turn"
            if outline.state == "closed":
                assert inbox == []
            facts.rows[outline.id], facts.sessions[outline.id], facts.inboxes[outline.id] = rows, session, inbox
            facts._events[outline.id] = events
            await facts._turns(log, outline.id)
        for session in facts.sessions.values():
            facts.pasts.check(session.outline)
        offsets = [row.offset for row in facts.in_order()]
        assert len(set(offsets)) == len(offsets)
        return facts

    async def _turns(self, log: Log, session: int) -> None:
        spans: dict[int, Span] = {}
        for seq, event in enumerate(self.events(session), 1):
            if isinstance(event, UserMessage | Done):
                assert event.turn is not None
                first = spans[event.turn].first_seq if event.turn in spans else seq
                spans[event.turn] = Span(first, seq if isinstance(event, Done) else None)
            if isinstance(event, UserMessage) and event.key is not None:
                sent = await log.sent(session, event.key)
                assert sent is not None
                assert sent.turn == event.turn
        for turn, span in spans.items():
            assert await log.span(session, turn) == span

    def events(self, session: int) -> list[Durable]:
        return self._events[session]

    def in_order(self) -> list[Stored]:
        return sorted((row for rows in self.rows.values() for row in rows), key=lambda row: row.offset)
