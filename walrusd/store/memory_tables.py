"""The tables of the in-memory store, as dicts that are written by the same rules as the SQLite tables."""

from bisect import bisect_right, insort
from collections.abc import Collection, Iterator
from operator import attrgetter, itemgetter
from typing import Literal

from msgspec import Struct, field

from walrus_protocol.events import Tick
from walrusd.session import session_state
from walrusd.session.session_state import SessionState
from walrusd.store.contract import (
    DAEMON_SESSION,
    MAX_DAEMON_EVENTS,
    MAX_LEDGER_ROWS,
    SESSIONS_EXPIRED_PREFIX,
    EventRow,
    IdempotencyKey,
    StorageFailed,
    TurnSpan,
    Write,
)
from walrusd.store.retention_contract import ClosedSession, OutputRef, SpaceUsage, SweepStats
from walrusd.store.row_codecs import decode_tick, encode

by_seq = attrgetter("seq")


class SessionTables(Struct):
    """The durable rows of one session, encoded as in SQLite."""

    session_state: bytes | None = None
    closed_at: float = 0.0
    """Closing time; meaningful only if the session is closed."""
    rows: list[EventRow] = field(default_factory=list)
    inbox: dict[int, bytes] = field(default_factory=dict)
    idempotency_keys: dict[str, IdempotencyKey] = field(default_factory=dict)
    turns: dict[int, TurnSpan] = field(default_factory=dict)
    draft: bytes | None = None
    outputs: set[str] = field(default_factory=set)


class MemoryTables:
    """The data that survives a restart of a MemoryLog. Only the last log opened on it can use it.

    For an earlier log that is like a power failure: its pending writes fail.
    """

    def __init__(self) -> None:
        self.sessions: dict[int, SessionTables] = {}
        self.unlisted_sessions: set[int] = set()
        self.forks: dict[int, tuple[int, int]] = {}
        self.create_keys: dict[str, tuple[int, bytes]] = {}
        self.outputs: dict[str, bytes] = {}
        self.ledgers: dict[str, dict[int, Tick]] = {}
        self.schedules: dict[str, bytes] = {}
        self.offset = 0
        self.last_session_id = 0
        self.written_bytes = 0
        """Bytes of bodies and outputs written since the last growth notification."""
        self.owner: object = None

    def session_tables(self, session: int) -> SessionTables:
        return self.sessions.setdefault(session, SessionTables())

    def session_states(self) -> list[SessionState]:
        """Returns the states of all listed sessions, oldest first."""
        return [
            session_state.decode(tables.session_state)
            for _, tables in sorted(self.sessions.items())
            if tables.session_state
        ]

    def find_conflict(self, write: Write) -> StorageFailed | None:
        """Returns a failure if SQLite's unique indexes would reject the write: nothing is written twice."""
        tables = self.session_tables(write.session)
        places = [queued.place for queued in write.enqueue]
        later_seqs = {row.seq for row in tables.rows[bisect_right(tables.rows, write.first_seq - 1, key=by_seq) :]}
        if (
            later_seqs.intersection(range(write.first_seq, write.first_seq + len(write.bodies)))
            or len({*tables.inbox, *places}) < len(tables.inbox) + len(places)
            or (write.turn_opened and write.turn_opened[0] in tables.turns)
            or (write.create_key and write.create_key.key in self.create_keys)
        ):
            return StorageFailed(f"session {write.session}: a row of this write exists already")
        return None

    def apply(self, write: Write) -> None:
        tables = self.session_tables(write.session)
        self._insert_events(tables, write)
        tables.inbox.update((queued.place, encode(queued)) for queued in write.enqueue)
        for place in write.dequeue:
            tables.inbox.pop(place, None)
        tables.idempotency_keys.update((used.key, used) for used in write.idempotency_keys)
        if write.create_key:
            self.create_keys[write.create_key.key] = write.session, write.create_key.digest
        self._upsert_turn(tables, write)
        if write.draft != "keep":
            tables.draft = None if write.draft == "drop" else encode(write.draft)
        if write.output:
            self.outputs.setdefault(write.output.ref, write.output.body)
            tables.outputs.add(write.output.ref)
            self.written_bytes += len(write.output.body)
        for tick in write.ticks:
            self._upsert_tick(decode_tick(encode(tick)))
        if write.schedule:
            self.schedules[write.schedule.name] = encode(write.schedule)
        self.unlisted_sessions.update(write.pending_imports)
        tables.turns.update((turn, TurnSpan(first, last)) for turn, first, last in write.turn_spans)
        if imported := write.imported:
            self.session_tables(imported.session_state.id).session_state = session_state.encode(imported.session_state)
            self.session_tables(imported.session_state.id).closed_at = imported.imported_at
            self.forks.update((child, (parent, seq)) for child, parent, seq in imported.forks)
            self.unlisted_sessions.discard(imported.session_state.id)
        for session in write.expired_sessions:
            self._expire_session(session)
        for session, ref in write.released_outputs:
            self.session_tables(session).outputs.discard(ref)

    def _insert_events(self, tables: SessionTables, write: Write) -> None:
        for seq, body in enumerate(write.bodies, write.first_seq):
            self.offset += 1
            insort(tables.rows, EventRow(seq, self.offset, body), key=by_seq)
            self.written_bytes += len(body)
        if write.session == DAEMON_SESSION and write.bodies:
            end = bisect_right(tables.rows, tables.rows[-1].seq - MAX_DAEMON_EVENTS, key=by_seq)
            tables.rows[:end] = [row for row in tables.rows[:end] if row.body.startswith(SESSIONS_EXPIRED_PREFIX)]
        if write.session_state:
            tables.session_state = session_state.encode(write.session_state)
            tables.closed_at = write.session_state.updated_at
            if write.first_seq == 1 and (parent := write.session_state.parent):
                self.forks.setdefault(write.session, (parent.session, parent.seq))

    def _upsert_tick(self, tick: Tick) -> None:
        ledger = self.ledgers.setdefault(tick.schedule, {})
        ledger[tick.tick] = tick
        if len(ledger) > MAX_LEDGER_ROWS:
            finished = [number for number in sorted(ledger) if ledger[number].outcome != "running"]
            for number in finished[: len(ledger) - MAX_LEDGER_ROWS]:
                del ledger[number]

    def _upsert_turn(self, tables: SessionTables, write: Write) -> None:
        if write.turn_opened:
            turn, first_seq = write.turn_opened
            tables.turns[turn] = TurnSpan(first_seq, None)
        if write.turn_ended and write.turn_ended[0] in tables.turns:
            turn, last_seq = write.turn_ended
            tables.turns[turn] = TurnSpan(tables.turns[turn].first_seq, last_seq)

    def _expire_session(self, session: int) -> None:
        self.sessions[session] = SessionTables(rows=self.session_tables(session).rows)
        self.create_keys = {key: created for key, created in self.create_keys.items() if created[0] != session}
        self.unlisted_sessions.add(session)

    def sweep(self, importing_sessions: Collection[int]) -> SweepStats:
        events, again = 0, True
        while again:
            again = False
            for session in self.unlisted_sessions.difference(importing_sessions):
                tables, inherited = self.session_tables(session), self._last_inherited_seq(session)
                rows = tables.rows
                if tables.session_state is None and (not inherited or (rows and rows[-1].seq > inherited)):
                    end = bisect_right(rows, inherited, key=by_seq)
                    events, again = events + len(rows) - end, True
                    del rows[end:]
                    if not inherited:
                        self.unlisted_sessions.discard(session)
                        self.forks.pop(session, None)
                        del self.sessions[session]
        unreferenced = self.outputs.keys() - {ref for tables in self.sessions.values() for ref in tables.outputs}
        for ref in unreferenced:
            del self.outputs[ref]
        return SweepStats(events, len(unreferenced))

    def _last_inherited_seq(self, session: int) -> int:
        """Returns the last seq of a session that a fork still reads, or 0 if none does."""
        listed = {row.id for row in self.session_states()} | self.unlisted_sessions
        return max(
            (seq for child, (parent, seq) in self.forks.items() if parent == session and child in listed), default=0
        )

    def space_usage(self) -> SpaceUsage:
        bodies = [row.body for tables in self.sessions.values() for row in tables.rows]
        return SpaceUsage(used_bytes=sum(map(len, [*bodies, *self.outputs.values()])), free_bytes=0)

    def closed_sessions(self, before: float) -> Iterator[ClosedSession]:
        last_outputs: dict[int, list[int]] = {}
        for output in self.output_refs("closed"):
            if output.bytes:
                last_outputs.setdefault(output.session, []).append(output.bytes)
        for closed_at, session, row in self._closed_rows():
            if closed_at >= before:
                break
            inherited = max((seq for parent, seq in self.forks.values() if parent == session), default=0)
            yield ClosedSession(
                session=session,
                closed_at=closed_at,
                turns=row.turns,
                events=max(0, row.last_seq - inherited),
                bytes=sum(len(event.body) for event in self.session_tables(session).rows if event.seq > inherited),
                last_outputs=len(last_outputs.get(session, ())),
                last_output_bytes=sum(last_outputs.get(session, ())),
            )

    def output_refs(self, scope: Literal["closed", "open"]) -> Iterator[OutputRef]:
        closed = [(closed_at, session) for closed_at, session, _ in self._closed_rows()]
        unclosed = self.sessions.keys() - {session for _, session in closed}
        needed = {ref for session in unclosed for ref in self.session_tables(session).outputs}
        if scope == "closed":
            pairs = [
                (closed_at, session, ref)
                for closed_at, session in closed
                for ref in sorted(self.session_tables(session).outputs - needed)
            ]
        else:
            listed = [row.id for row in self.session_states()]
            pairs = [
                (float(position), session, ref)
                for position, ref in enumerate(self.outputs, 1)
                for session in listed
                if ref in needed & self.session_tables(session).outputs
            ]
        last_holders = {ref: session for _, session, ref in pairs}
        for position, session, ref in pairs:
            size = len(self.outputs[ref]) if last_holders[ref] == session else 0
            yield OutputRef(session=session, ref=ref, bytes=size, position=position)

    def _closed_rows(self) -> list[tuple[float, int, SessionState]]:
        rows = [
            (self.session_tables(row.id).closed_at, row.id, row)
            for row in self.session_states()
            if row.state == "closed"
        ]
        return sorted(rows, key=itemgetter(0, 1))
