"""A naive model of forked sessions: each session has its whole log, which is copied at each fork."""

from dataclasses import dataclass, field
from pathlib import Path

import apsw

from tests.fakes.stores import commit, write
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import Parent, SessionCreated, UserMessage, decode_row, encode
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables.idempotency_key import AddCreateKey, IdempotencyKey, PutKey
from walrusd.store.tables.output import AddOutput, StoredOutput
from walrusd.store.tables.turn import AddTurn, PutTurnEnd

TABLES = ("event", "text", "session", "fork", "remains", "said", "sent", "created_with", "turn", "output", "output_of")


def body(session: int, seq: int, parent: Parent | None) -> bytes:
    """Returns an event body; the first one of a session names its parent.

    Every third one is long and the same in all sessions.
    """
    if seq == 1:
        return encode(SessionCreated(session=session, agent="a", parent=parent))
    text = f"shared {seq} " * 1000 if seq % 3 == 0 else f"of {session} {seq}"
    return encode(UserMessage(content=text, session=session))


@dataclass
class ForkTree:
    """The expected whole log of each listed session.

    It has the events of its ancestors up to the fork points, then its own.
    """

    full_logs: dict[int, list[bytes]] = field(default_factory=dict)
    own_events: dict[int, int] = field(default_factory=dict)
    daemon_events: int = 0

    async def create_session(self, log: Log, events: int, parent_id: int | None = None, at: int = 0) -> int:
        """Creates a session with that many events, or a fork of another one at one of the events of its own."""
        session = log.next_session()
        parent = Parent(session=parent_id, seq=at) if parent_id else None
        inherited = (
            self.full_logs[parent_id][: len(self.full_logs[parent_id]) - self.own_events[parent_id] + at]
            if parent_id
            else []
        )
        bodies = [body(session, seq, parent) for seq in range(1, events + 1)]
        state = SessionState(id=session, agent="a", state="closed", parent=parent, updated_at=session, last_seq=events)
        await commit(
            log,
            write(
                session=session,
                session_state=state,
                bodies=bodies,
                first_seq=1,
                mutations=[
                    PutKey(IdempotencyKey(key="k", digest=b"d")),
                    AddCreateKey(f"made {session}", b"d"),
                    AddTurn(1, 1),
                    PutTurnEnd(1, events),
                    AddOutput(StoredOutput(ref=f"shared {session % 3}", body=b"o" * 9000)),
                ],
            ),
        )
        self.full_logs[session], self.own_events[session] = inherited + bodies, events
        return session

    async def expire(self, log: Log, sessions: list[int]) -> None:
        self.daemon_events += 1
        await commit(
            log,
            write(
                session=DAEMON_SESSION,
                bodies=[b"{}"],
                first_seq=self.daemon_events,
                mutations=[*map(ExpireSession, sessions)],
            ),
        )
        for session in sessions:
            del self.full_logs[session], self.own_events[session]


async def read_full_log(log: Log, session: int) -> list[bytes] | None:
    """Returns the whole log of a session with its ancestors' events, or None if it is not listed."""
    state = await log.session_state(session)
    if state is None:
        return None
    fork_point: Parent | None = Parent(session=session, seq=state.last_seq)
    bodies: list[bytes] = []
    while fork_point:
        rows = (await log.events(fork_point.session, 0, 1000))[: fork_point.seq]
        bodies = [row.body for row in rows] + bodies
        first = decode_row(rows[0].body)
        assert isinstance(first, SessionCreated)
        fork_point = first.parent
    return bodies


def row_counts(path: Path) -> dict[str, int]:
    """Returns the number of rows of each table; for `event`, without daemon events."""
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    counts = {table: count(db, f"SELECT count(*) FROM {table}") for table in TABLES}
    counts["event"] = count(db, f"SELECT count(*) FROM event WHERE session <> {DAEMON_SESSION}")
    assert db.execute("PRAGMA integrity_check").get == "ok"
    db.close()
    return counts


def count(db: apsw.Connection, query: str) -> int:
    number: int = db.execute(query).get
    return number
