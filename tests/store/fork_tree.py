"""Sessions that go on from each other, as a naive model has them: every one with its whole log, copied at each fork."""

from dataclasses import dataclass, field
from pathlib import Path

import apsw

from tests.fakes.stores import commit, write
from walrus_protocol.events import Parent, SessionCreated, UserMessage, decode_row, encode
from walrusd.session.session_state import SessionState
from walrusd.store.contract import DAEMON_SESSION, IdempotencyKey, Log, StoredOutput

TABLES = ("event", "text", "session", "fork", "remains", "said", "sent", "created_with", "turn", "output", "output_of")


def body(session: int, seq: int, parent: Parent | None) -> bytes:
    """The first tells whom it goes on from; every third is long, and the same in all sessions."""
    if seq == 1:
        return encode(SessionCreated(session=session, agent="a", parent=parent))
    text = f"shared {seq} " * 1000 if seq % 3 == 0 else f"of {session} {seq}"
    return encode(UserMessage(content=text, session=session))


@dataclass
class ForkTree:
    """What each listed session should be read as: its ancestors' events up to where it left them, then its own."""

    full_logs: dict[int, list[bytes]] = field(default_factory=dict)
    own_events: dict[int, int] = field(default_factory=dict)
    daemon_events: int = 0

    async def create_session(self, log: Log, events: int, parent_id: int | None = None, at: int = 0) -> int:
        """A session of so many events, or one that goes on from another at one of the events of its own."""
        session = log.next_session()
        parent = Parent(session=parent_id, seq=at) if parent_id else None
        inherited = (
            self.full_logs[parent_id][: len(self.full_logs[parent_id]) - self.own_events[parent_id] + at]
            if parent_id
            else []
        )
        bodies = [body(session, seq, parent) for seq in range(1, events + 1)]
        outline = SessionState(
            id=session, agent="a", state="closed", parent=parent, updated_at=session, last_seq=events
        )
        await commit(
            log,
            write(
                session=session,
                session_state=outline,
                bodies=bodies,
                first_seq=1,
                idempotency_keys=[IdempotencyKey(key="k", digest=b"d")],
                create_key=IdempotencyKey(key=f"made {session}", digest=b"d"),
                turn_opened=(1, 1),
                turn_ended=(1, events),
                output=StoredOutput(ref=f"shared {session % 3}", body=b"o" * 9000),
            ),
        )
        self.full_logs[session], self.own_events[session] = inherited + bodies, events
        return session

    async def expire(self, log: Log, sessions: list[int]) -> None:
        self.daemon_events += 1
        await commit(
            log, write(session=DAEMON_SESSION, bodies=[b"{}"], first_seq=self.daemon_events, expired_sessions=sessions)
        )
        for session in sessions:
            del self.full_logs[session], self.own_events[session]


async def read_full_log(log: Log, session: int) -> list[bytes] | None:
    """The session's whole log, read as a fork reads it; None where it is not listed."""
    outline = await log.session_state(session)
    if outline is None:
        return None
    point: Parent | None = Parent(session=session, seq=outline.last_seq)
    found: list[bytes] = []
    while point:
        rows = (await log.events(point.session, 0, 1000))[: point.seq]
        found = [row.body for row in rows] + found
        first = decode_row(rows[0].body)
        assert isinstance(first, SessionCreated)
        point = first.parent
    return found


def row_counts(path: Path) -> dict[str, int]:
    """How many there are in each table; of events, those of sessions."""
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    counts = {table: count(db, f"SELECT count(*) FROM {table}") for table in TABLES}
    counts["event"] = count(db, f"SELECT count(*) FROM event WHERE session <> {DAEMON_SESSION}")
    assert db.execute("PRAGMA integrity_check").get == "ok"
    db.close()
    return counts


def count(db: apsw.Connection, query: str) -> int:
    number: int = db.execute(query).get
    return number
