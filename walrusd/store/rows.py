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
from walrusd.store.chain import Chain, keep_digests
from walrusd.store.coding import encode
from walrusd.store.log import DAEMON, DAEMON_FACTS, LEDGER, SESSIONS_EXPIRED, Write
from walrusd.store.said import said
from walrusd.store.texts import split
from walrusd.store.words import apart

Row = tuple[int | float | str | bytes | None, ...]


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


class Large:
    """A statement for rows of megabytes. It is not cached: one that is keeps what was bound to it last."""

    def __init__(self, text: str) -> None:
        self._text = text

    def run(self, db: apsw.Connection, rows: Sequence[Row]) -> None:
        for row in rows:
            db.execute(self._text, row, can_cache=False)


EVENTS = Many('INSERT INTO event ("offset", session, seq, body) VALUES', 4)
EVENTS_WITH_TEXT = Many('INSERT INTO event ("offset", session, seq, body, text, at) VALUES', 6)
LINKS = Many('INSERT INTO link ("offset", link) VALUES', 2)
SAID = Many("INSERT INTO said (rowid, text) VALUES", 2)
SESSIONS = Many(
    "INSERT INTO session (id, agent, state, in_turn, outline, closed_at) VALUES",
    6,
    """ON CONFLICT (id) DO UPDATE SET agent = excluded.agent, state = excluded.state, in_turn = excluded.in_turn,
    outline = excluded.outline, closed_at = excluded.closed_at""",
)
FORKS = Many("INSERT INTO fork (child, parent, seq) VALUES", 3, "ON CONFLICT (child) DO NOTHING")
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
TEXTS = Large("INSERT INTO text (digest, body) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING")
OUTPUT = Large("INSERT INTO output (ref, body) VALUES (?, ?) ON CONFLICT (ref) DO NOTHING")
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
EXPIRED = (
    *(
        Many(f"DELETE FROM {table} WHERE session IN (VALUES", 1, ")")  # noqa: S608 - words of ours
        for table in ("sent", "created_with", "turn", "draft", "inbox", "output_of")
    ),
    Many("DELETE FROM session WHERE id IN (VALUES", 1, ")"),
    Many("INSERT INTO remains (session) VALUES", 1, "ON CONFLICT (session) DO NOTHING"),
)
"""A session that is thrown away: all but its events, and where it read on from."""
UNSEEN = Many("INSERT INTO remains (session) VALUES", 1)
SEEN = Many("DELETE FROM remains WHERE session IN (VALUES", 1, ")")
TURNS = Many("INSERT INTO turn (session, turn, first_seq, last_seq) VALUES", 4)
RELEASED = Many("DELETE FROM output_of WHERE (session, ref) IN (VALUES", 2, ")")
# Those that tell which sessions are gone stay: only by them a chain knows who threw these away.
FORGOTTEN = f"""SELECT "offset" FROM event WHERE session = {DAEMON} AND seq BETWEEN ? AND ?
AND substr(body, 1, {len(SESSIONS_EXPIRED)}) <> CAST('{SESSIONS_EXPIRED.decode()}' AS BLOB)"""  # noqa: S608 - ours
SCHEDULES = Many("INSERT INTO schedule (name, body) VALUES", 2, "ON CONFLICT (name) DO UPDATE SET body = excluded.body")


def put(db: apsw.Connection, batch: Sequence[Write], first_offset: int, chained: Chain) -> None:
    """All rows of a batch; the bodies get offsets from `first_offset` on, in order. Raises apsw.Error."""
    offsets = count(first_offset)
    for writes in _one_each(batch):
        for statement, rows in _rows(writes, offsets, chained):
            if rows:
                statement.run(db, rows)
    for schedule in {tick.schedule for write in batch for tick in write.ticks}:
        db.execute(FORGET, {"schedule": schedule, "kept": LEDGER})
    if facts := [write for write in batch if write.session == DAEMON and write.bodies]:
        _forget(db, facts[0].first_seq - DAEMON_FACTS, facts[-1].first_seq + len(facts[-1].bodies) - 1 - DAEMON_FACTS)


def _forget(db: apsw.Connection, first_seq: int, last_seq: int) -> None:
    """The daemon's facts from one seq to another: as many as there are new ones, those before are gone already."""
    if last_seq > 0 and (offsets := [offset for (offset,) in db.execute(FORGOTTEN, (first_seq, last_seq))]):
        keep_digests(db, offsets)
        db.executemany('DELETE FROM event WHERE "offset" = ?', [(offset,) for offset in offsets])


def _one_each(batch: Sequence[Write]) -> Iterator[list[Write]]:
    """The batch in parts in which no session comes twice: in such a part the order of tables does not matter."""
    part: dict[int, Write] = {}
    for write in batch:
        if write.session in part:
            yield list(part.values())
            part = {}
        part[write.session] = write
    yield list(part.values())


def _rows(writes: list[Write], offsets: Iterator[int], chained: Chain) -> Iterator[tuple[Many | Large, list[Row]]]:
    bodies = [(next(offsets), w.session, seq, body) for w in writes for seq, body in enumerate(w.bodies, w.first_seq)]
    large = {offset: part for offset, _, _, body in bodies if (part := split(body))}
    yield EVENTS, [row for row in bodies if row[0] not in large]
    yield TEXTS, [(part.digest, part.text) for part in large.values()]
    yield (
        EVENTS_WITH_TEXT,
        [(at, s, seq, large[at].rest, large[at].digest, large[at].at) for at, s, seq, _ in bodies if at in large],
    )
    yield LINKS, [*chained.links(bodies)]
    searched = {w.session for w in writes if w.searched}
    yield SAID, [(at, apart(one.text)) for at, s, _, body in bodies if s in searched and (one := said(body))]
    yield SESSIONS, [_session(o, o.updated_at) for w in writes if (o := w.outline)]
    yield (
        FORKS,
        [(o.id, o.parent.session, o.parent.seq) for w in writes if w.first_seq == 1 and (o := w.outline) and o.parent],
    )
    yield UNSEEN, [(session,) for w in writes for session in w.unseen]
    yield TURNS, [(w.session, *span) for w in writes for span in w.spans]
    seen = [w.seen for w in writes if w.seen]
    yield SESSIONS, [_session(one.outline, one.at) for one in seen]
    yield FORKS, [fork for one in seen for fork in one.forks]
    yield SEEN, [(one.outline.id,) for one in seen]
    yield ENQUEUE, [(w.session, q.place, q.kind, encode(q)) for w in writes for q in w.enqueue]
    yield DEQUEUE, [(w.session, place) for w in writes for place in w.dequeue]
    yield SENT, [(w.session, s.key, s.digest, s.turn) for w in writes for s in w.sent]
    yield CREATED, [(w.created_with.key, w.created_with.digest, w.session) for w in writes if w.created_with]
    yield OPENED, [(w.session, *w.turn_opened) for w in writes if w.turn_opened]
    yield ENDED, [(w.session, *w.turn_ended) for w in writes if w.turn_ended]
    yield KEEP, [(w.session, encode(w.draft)) for w in writes if isinstance(w.draft, Draft)]
    yield DROP, [(w.session,) for w in writes if w.draft == "drop"]
    yield OUTPUT, [(w.output.ref, w.output.body) for w in writes if w.output]
    yield OUTPUT_OF, [(w.session, w.output.ref) for w in writes if w.output]
    yield TICKS, [(t.tick, t.schedule, t.outcome == "running", t.news, encode(t)) for w in writes for t in w.ticks]
    for statement in EXPIRED:
        yield statement, [(session,) for w in writes for session in w.expired]
    yield RELEASED, [claim for w in writes for claim in w.released]
    yield SCHEDULES, [(w.schedule.name, encode(w.schedule)) for w in writes if w.schedule]


def _session(row: Outline, at: float) -> Row:
    closed_at = at if row.state == "closed" else None
    return row.id, row.agent, row.state or "", row.turn is not None, outline.encode(row), closed_at
