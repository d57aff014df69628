"""An event store in memory, shipped for tests, with the interface of the SQLite store.

It is durable as long as its `MemoryTables` exist.
"""

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Literal

import trio

from walrus_protocol.events import Tick
from walrus_protocol.methods.search import Hit
from walrusd.session import session_state
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState
from walrusd.store.contract import (
    DAEMON_SESSION,
    MAX_SCANNED_ROWS,
    EventRow,
    FileSizes,
    IdempotencyKey,
    InboxEntry,
    ScheduleRow,
    SessionFilter,
    SessionSnapshot,
    StorageFailed,
    StreamFilter,
    StreamPage,
    TurnSpan,
    Write,
)
from walrusd.store.global_stream_query import event_agent, event_type
from walrusd.store.memory_tables import MemoryTables, SessionTables, by_seq
from walrusd.store.retention_contract import (
    CURSOR_START,
    GROWTH_BYTES,
    ClosedSession,
    Cursor,
    OutputRef,
    SpaceUsage,
    SweepStats,
)
from walrusd.store.row_codecs import decode_draft, decode_inbox_entry, decode_schedule
from walrusd.store.search import SearchRow, search_rows
from walrusd.store.writer_barrier import WriterBarrier


class MemoryLog:
    """A `Log` without a file.

    `MemoryLog(log.tables)` simulates a restart: it has exactly what was committed. While `fail_with` is set, every
    write fails with it; reads still work.
    """

    def __init__(self, tables: MemoryTables | None = None) -> None:
        self.tables = tables or MemoryTables()
        self.tables.owner = self
        self.fail_with: StorageFailed | None = None
        self.importing_sessions: set[int] = set()
        self._growth = trio.Event()
        self._queue: list[Write | WriterBarrier] = []
        self._closed = False

    def submit(self, write: Write) -> None:
        self.tables.last_session_id = max(self.tables.last_session_id, write.session)
        self._enqueue(write)

    def _enqueue(self, item: Write | WriterBarrier) -> None:
        if not self._queue:
            trio.lowlevel.current_trio_token().run_sync_soon(self._commit)
        self._queue.append(item)

    def next_session(self) -> int:
        self.tables.last_session_id += 1
        return self.tables.last_session_id

    def _commit(self) -> None:
        """Commits the queue as one batch: all of it is durable before the first callback runs."""
        batch, self._queue = self._queue, []
        for outcome in [self._execute(one) for one in batch]:
            outcome()

    def _execute(self, item: Write | WriterBarrier) -> Callable[[], None]:
        if isinstance(item, WriterBarrier):
            closed = self._closed_error()
            return partial(item.failed, closed) if closed else item.succeeded
        failure = self._closed_error() or self.fail_with or self.tables.find_conflict(item)
        if failure:
            return partial(item.failed, failure)
        first_offset = self.tables.offset + 1
        self.tables.apply(item)
        if self.tables.written_bytes >= GROWTH_BYTES:
            self.tables.written_bytes = 0
            self._growth.set()
        return partial(item.committed, first_offset)

    def _closed_error(self) -> StorageFailed | None:
        if self.tables.owner is not self:
            return StorageFailed("another log was opened on these tables")
        return StorageFailed("the log is closed") if self._closed else None

    async def _read_session(self, session: int) -> SessionTables:
        await self._check_open()
        return self.tables.sessions.get(session, SessionTables())

    async def _check_open(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise StorageFailed("the log is closed")

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[EventRow]:
        rows = (await self._read_session(session)).rows
        start = bisect_right(rows, since, key=by_seq)
        return _page(rows[start : start + limit], limit, max_bytes)

    def last_offset(self) -> int:
        return self.tables.offset

    async def stream_page(
        self, stream_filter: StreamFilter, since: int, upto: int, limit: int, max_bytes: int = 1024 * 1024
    ) -> StreamPage:
        await self._check_open()
        agents = {row.id: row.agent for row in self.tables.session_states()}
        candidates = sorted(
            (row.offset, session, row)
            for session, tables in self.tables.sessions.items()
            for row in tables.rows
            if row.offset > since
        )
        end = min([upto, *(offset + MAX_SCANNED_ROWS - 1 for offset, _, _ in candidates[:1])])
        found = [
            EventRow(row.seq if session else 0, offset, row.body)
            for offset, session, row in candidates
            if offset <= end
            and (session == DAEMON_SESSION or session in agents)
            and stream_filter.matches(session, agents.get(session) or event_agent(row.body) or "", event_type(row.body))
        ]
        rows = _page(found, limit, max_bytes)
        return StreamPage(rows, rows[-1].offset if len(rows) == limit or len(rows) < len(found) else end)

    async def session_snapshot(self, session: int, limit: int, max_bytes: int = 1024 * 1024) -> SessionSnapshot | None:
        row = await self.session_state(session)
        if row is None:
            return None
        rows = await self.events(session, 0, limit, max_bytes)
        inbox, draft = await self.inbox(session), await self.draft(session)
        return SessionSnapshot(rows=rows, last_seq=row.last_seq, inbox=inbox, draft=draft)

    async def session_state(self, session: int) -> SessionState | None:
        row = (await self._read_session(session)).session_state
        return None if row is None else session_state.decode(row)

    async def list_sessions(self, session_filter: SessionFilter) -> list[tuple[SessionState, int]]:
        await self._check_open()
        page: list[tuple[SessionState, int]] = []
        for row in reversed(self.tables.session_states()):
            if len(page) < session_filter.limit and _matches(row, session_filter):
                inbox = map(decode_inbox_entry, self.tables.session_tables(row.id).inbox.values())
                page.append((row, sum(queued.kind != "close" for queued in inbox)))
        return page

    async def inbox(self, session: int) -> list[InboxEntry]:
        inbox = (await self._read_session(session)).inbox
        return [decode_inbox_entry(inbox[place]) for place in sorted(inbox)]

    async def draft(self, session: int) -> Draft | None:
        row = (await self._read_session(session)).draft
        return None if row is None else decode_draft(row)

    async def idempotency_key(self, session: int, key: str) -> IdempotencyKey | None:
        return (await self._read_session(session)).idempotency_keys.get(key)

    async def session_created_with(self, key: str) -> tuple[int, bytes] | None:
        await self._check_open()
        return self.tables.create_keys.get(key)

    async def turn_span(self, session: int, turn: int) -> TurnSpan | None:
        return (await self._read_session(session)).turns.get(turn)

    async def unfinished_sessions(self) -> list[int]:
        await self._check_open()
        in_turn = {row.id for row in self.tables.session_states() if row.turn}
        return sorted(in_turn.union(session for session, tables in self.tables.sessions.items() if tables.inbox))

    async def open_session_count(self) -> int:
        await self._check_open()
        return sum(row.state != "closed" for row in self.tables.session_states())

    async def output(self, session: int, ref: str, offset: int, limit: int) -> bytes | None:
        readable = ref in (await self._read_session(session)).outputs
        return self.tables.outputs[ref][offset : offset + limit] if readable else None

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        await self._check_open()
        agents = {row.id: row.agent for row in self.tables.session_states()}
        rows = [
            SearchRow(row.offset, session, row.seq, row.body, agents.get(session, ""))
            for session, tables in self.tables.sessions.items()
            for row in tables.rows
            if session not in self.tables.unlisted_sessions and (before is None or row.offset < before)
        ]
        return search_rows(sorted(rows, reverse=True), query, limit)

    async def schedules(self) -> list[ScheduleRow]:
        await self._check_open()
        return [decode_schedule(row) for _, row in sorted(self.tables.schedules.items())]

    async def ticks(
        self, schedule: str | None = None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        await self._check_open()
        ticks = self._ticks() if schedule is None else self.tables.ledgers.get(schedule, {})
        selected = (
            n for n in sorted(ticks, reverse=True) if (before is None or n < before) and (ticks[n].news or not news)
        )
        return [ticks[number] for number in islice(selected, limit)]

    async def running_ticks(self) -> list[Tick]:
        await self._check_open()
        ticks = self._ticks()
        return [ticks[n] for n in sorted(ticks, reverse=True) if ticks[n].outcome == "running"]

    async def last_tick_and_seq(self) -> tuple[int, int]:
        rows = (await self._read_session(DAEMON_SESSION)).rows
        return max(self._ticks(), default=0), rows[-1].seq if rows else 0

    async def wait_for_writes(self) -> None:
        barrier = WriterBarrier()
        self._enqueue(barrier)
        await barrier.wait()

    def file_sizes(self) -> FileSizes:
        return FileSizes(0, 0)

    async def space_usage(self) -> SpaceUsage:
        await self._check_open()
        return self.tables.space_usage()

    async def wait_growth(self) -> None:
        await self._growth.wait()
        self._growth = trio.Event()

    async def closed_sessions(self, before: float, *, after: Cursor = CURSOR_START, limit: int) -> list[ClosedSession]:
        await self._check_open()
        return [one for one in self.tables.closed_sessions(before) if one.cursor > after][:limit]

    async def output_refs(
        self, scope: Literal["closed", "open"], *, after: Cursor = CURSOR_START, limit: int
    ) -> list[OutputRef]:
        await self._check_open()
        return [one for one in self.tables.output_refs(scope) if one.cursor > after][:limit]

    async def unlisted_sessions(self) -> list[int]:
        await self._check_open()
        return []

    async def sweep(self) -> SweepStats:
        await self._check_open()
        return self.tables.sweep(self.importing_sessions)

    async def aclose(self) -> None:
        """Finishes the submitted writes. The tables keep them."""
        self._commit()
        self._closed = True
        await trio.lowlevel.checkpoint()

    def _ticks(self) -> dict[int, Tick]:
        """Returns the ticks of all schedules by number."""
        return {number: tick for ledger in self.tables.ledgers.values() for number, tick in ledger.items()}


def _page(rows: list[EventRow], limit: int, max_bytes: int) -> list[EventRow]:
    page: list[EventRow] = []
    for row in rows[:limit]:
        max_bytes -= len(row.body)
        if page and max_bytes < 0:
            break
        page.append(row)
    return page


def _matches(row: SessionState, session_filter: SessionFilter) -> bool:
    return (
        (
            row.state == session_filter.state
            if session_filter.state
            else session_filter.include_closed or row.state != "closed"
        )
        and (session_filter.agent is None or row.agent == session_filter.agent)
        and (session_filter.before is None or row.id < session_filter.before)
    )
