"""Sessions that go on from each other, as a naive model has them: every one with its whole log, copied at each fork."""

from dataclasses import dataclass, field
from pathlib import Path

import apsw

from tests.fakes.stores import commit, write
from walrus_protocol.events import Parent, SessionCreated, UserMessage, decode_row, encode
from walrusd.session.outline import Outline
from walrusd.store.log import DAEMON, Log, Output, Sent

TABLES = ("event", "text", "session", "fork", "remains", "said", "sent", "created_with", "turn", "output", "output_of")


def body(session: int, seq: int, parent: Parent | None) -> bytes:
    """The first tells whom it goes on from; every third is long, and the same in all sessions."""
    if seq == 1:
        return encode(SessionCreated(session=session, agent="a", parent=parent))
    text = f"shared {seq} " * 1000 if seq % 3 == 0 else f"of {session} {seq}"
    return encode(UserMessage(content=text, session=session))


@dataclass
class Family:
    """What each listed session should be read as: its ancestors' events up to where it left them, then its own."""

    whole: dict[int, list[bytes]] = field(default_factory=dict)
    own: dict[int, int] = field(default_factory=dict)
    facts: int = 0

    async def make(self, log: Log, events: int, of: int | None = None, at: int = 0) -> int:
        """A session of so many events, or one that goes on from another at one of the events of its own."""
        session = log.next_session()
        parent = Parent(session=of, seq=at) if of else None
        inherited = self.whole[of][: len(self.whole[of]) - self.own[of] + at] if of else []
        bodies = [body(session, seq, parent) for seq in range(1, events + 1)]
        outline = Outline(id=session, agent="a", state="closed", parent=parent, updated_at=session, last_seq=events)
        await commit(
            log,
            write(
                session=session,
                outline=outline,
                bodies=bodies,
                first_seq=1,
                sent=[Sent(key="k", digest=b"d")],
                created_with=Sent(key=f"made {session}", digest=b"d"),
                turn_opened=(1, 1),
                turn_ended=(1, events),
                output=Output(ref=f"shared {session % 3}", body=b"o" * 9000),
            ),
        )
        self.whole[session], self.own[session] = inherited + bodies, events
        return session

    async def expire(self, log: Log, sessions: list[int]) -> None:
        self.facts += 1
        await commit(log, write(session=DAEMON, bodies=[b"{}"], first_seq=self.facts, expired=sessions))
        for session in sessions:
            del self.whole[session], self.own[session]


async def history(log: Log, session: int) -> list[bytes] | None:
    """The session's whole log, read as a fork reads it; None where it is not listed."""
    outline = await log.outline(session)
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


def rows(path: Path) -> dict[str, int]:
    """How many there are in each table; of events, those of sessions."""
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    counts = {table: count(db, f"SELECT count(*) FROM {table}") for table in TABLES}
    counts["event"] = count(db, f"SELECT count(*) FROM event WHERE session <> {DAEMON}")
    assert db.execute("PRAGMA integrity_check").get == "ok"
    db.close()
    return counts


def count(db: apsw.Connection, query: str) -> int:
    number: int = db.execute(query).get
    return number
