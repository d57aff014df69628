"""A batch of writes as rows of tables.

A statement takes many rows at once: each step into SQLite lets go of the interpreter, and a busy loop gives it back
late (a batch of 16 beside a busy thread: 9,000 rows/s by 64 in a step, 1,400 by one).
"""

from collections.abc import Iterator, Sequence
from itertools import chain, count

import apsw

from walrusd.session import outline
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline
from walrusd.store.coding import encode
from walrusd.store.log import DAEMON, DAEMON_FACTS, LEDGER, Write
from walrusd.store.said import said
from walrusd.store.words import apart

Row = tuple[int | str | bytes | None, ...]


class Many:
    """A statement for any number of rows. They go in by powers of two, so that few texts fill the statement cache."""

    def __init__(self, head: str, columns: int, tail: str = "") -> None:
        row = f"({','.join('?' * columns)})"
        self._texts = {size: f"{head} {','.join([row] * size)} {tail}" for size in (64, 32, 16, 8, 4, 2, 1)}

    def run(self, db: apsw.Connection, rows: Sequence[Row]) -> None:
        done = 0
        for size, text in self._texts.items():
            while len(rows) - done >= size:
                db.execute(text, tuple(chain.from_iterable(rows[done : done + size])))
                done += size


EVENTS = Many('INSERT INTO event ("offset", session, seq, body) VALUES', 4)
SAID = Many("INSERT INTO said (rowid, text) VALUES", 2)
SESSIONS = Many(
    "INSERT INTO session (id, agent, state, in_turn, outline) VALUES",
    5,
    """ON CONFLICT (id) DO UPDATE SET
    agent = excluded.agent, state = excluded.state, in_turn = excluded.in_turn, outline = excluded.outline""",
)
ENQUEUE = Many("INSERT INTO inbox (session, place, kind, body) VALUES", 4)
DEQUEUE = Many("DELETE FROM inbox WHERE (session, place) IN (VALUES", 2, ")")
SENT = Many(
    "INSERT INTO sent (session, key, digest, turn) VALUES",
    4,
    "ON CONFLICT (session, key) DO UPDATE SET digest = excluded.digest, turn = excluded.turn",
)
CREATED = Many("INSERT INTO created_with (key, digest, session) VALUES", 3)
OPENED = Many("INSERT INTO turn (session, turn, first_seq) VALUES", 3)
ENDED = Many(
    "WITH ended (session, turn, last_seq) AS (VALUES",
    3,
    """) UPDATE turn SET last_seq = ended.last_seq FROM ended
    WHERE turn.session = ended.session AND turn.turn = ended.turn""",
)
KEEP = Many("INSERT INTO draft (session, body) VALUES", 2, "ON CONFLICT (session) DO UPDATE SET body = excluded.body")
DROP = Many("DELETE FROM draft WHERE session IN (VALUES", 1, ")")
OUTPUT = "INSERT INTO output (ref, body) VALUES (?, ?) ON CONFLICT (ref) DO NOTHING"
OUTPUT_OF = Many("INSERT INTO output_of (session, ref) VALUES", 2, "ON CONFLICT (session, ref) DO NOTHING")
TICKS = Many(
    "INSERT INTO tick (tick, schedule, running, news, body) VALUES",
    5,
    "ON CONFLICT (tick) DO UPDATE SET running = excluded.running, news = excluded.news, body = excluded.body",
)
FORGET = """DELETE FROM tick WHERE tick IN (
    SELECT tick FROM tick WHERE schedule = :schedule AND NOT running ORDER BY tick
    LIMIT (SELECT max(ticks - :kept, 0) FROM ledger WHERE schedule = :schedule)
)"""
FORGET_FACTS = "DELETE FROM event WHERE session = ? AND seq <= ?"
SCHEDULES = Many("INSERT INTO schedule (name, body) VALUES", 2, "ON CONFLICT (name) DO UPDATE SET body = excluded.body")


def put(db: apsw.Connection, batch: Sequence[Write], first_offset: int) -> None:
    """All rows of a batch; the bodies get offsets from `first_offset` on, in order. Raises apsw.Error."""
    offsets = count(first_offset)
    for writes in _one_each(batch):
        for statement, rows in _rows(writes, offsets):
            if rows:
                statement.run(db, rows)
    for output in [write.output for write in batch if write.output]:
        # Not cached: a statement that is keeps what was bound to it last, megabytes here.
        db.execute(OUTPUT, (output.ref, output.body), can_cache=False)
    for schedule in {tick.schedule for write in batch for tick in write.ticks}:
        db.execute(FORGET, {"schedule": schedule, "kept": LEDGER})
    if facts := [write for write in batch if write.session == DAEMON and write.bodies]:
        db.execute(FORGET_FACTS, (DAEMON, facts[-1].first_seq + len(facts[-1].bodies) - 1 - DAEMON_FACTS))


def _one_each(batch: Sequence[Write]) -> Iterator[list[Write]]:
    """The batch in parts in which no session comes twice: in such a part the order of tables does not matter."""
    part: dict[int, Write] = {}
    for write in batch:
        if write.session in part:
            yield list(part.values())
            part = {}
        part[write.session] = write
    yield list(part.values())


def _rows(writes: list[Write], offsets: Iterator[int]) -> Iterator[tuple[Many, list[Row]]]:
    bodies = [(next(offsets), w.session, seq, body) for w in writes for seq, body in enumerate(w.bodies, w.first_seq)]
    yield EVENTS, [*bodies]
    yield SAID, [(offset, apart(one.text)) for offset, _, _, body in bodies if (one := said(body))]
    yield SESSIONS, [_session(w.outline) for w in writes if w.outline]
    yield ENQUEUE, [(w.session, q.place, q.kind, encode(q)) for w in writes for q in w.enqueue]
    yield DEQUEUE, [(w.session, place) for w in writes for place in w.dequeue]
    yield SENT, [(w.session, s.key, s.digest, s.turn) for w in writes for s in w.sent]
    yield CREATED, [(w.created_with.key, w.created_with.digest, w.session) for w in writes if w.created_with]
    yield OPENED, [(w.session, *w.turn_opened) for w in writes if w.turn_opened]
    yield ENDED, [(w.session, *w.turn_ended) for w in writes if w.turn_ended]
    yield KEEP, [(w.session, encode(w.draft)) for w in writes if isinstance(w.draft, Draft)]
    yield DROP, [(w.session,) for w in writes if w.draft == "drop"]
    yield OUTPUT_OF, [(w.session, w.output.ref) for w in writes if w.output]
    yield TICKS, [(t.tick, t.schedule, t.outcome == "running", t.news, encode(t)) for w in writes for t in w.ticks]
    yield SCHEDULES, [(w.schedule.name, encode(w.schedule)) for w in writes if w.schedule]


def _session(row: Outline) -> Row:
    return row.id, row.agent, row.state or "", row.turn is not None, outline.encode(row)
