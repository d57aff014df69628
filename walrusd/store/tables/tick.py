"""The ledger of the schedules: one row per tick; `ledger` counts the rows of each schedule."""

from collections.abc import Sequence
from typing import Self

import apsw
from msgspec.json import encode

from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import Tick
from walrus_protocol.json import Decoder
from walrusd.store.tables.table import MAX_ID_PLUS_ONE, BatchStatement, Mutation, Table

MAX_LEDGER_ROWS = 5_000
"""Maximum ledger rows kept per schedule: three days of one a minute, half a year of one an hour."""

SELECT_RUNNING = "SELECT body FROM tick WHERE running ORDER BY tick DESC"
SELECT_LAST_TICK_AND_SEQ = "SELECT (SELECT max(tick) FROM tick), (SELECT max(seq) FROM event WHERE session = ?)"
PUT = BatchStatement(
    "INSERT INTO tick (tick, schedule, running, news, body) VALUES",
    5,
    "ON CONFLICT (tick) DO UPDATE SET running = excluded.running, news = excluded.news, body = excluded.body",
)
PRUNE = """DELETE FROM tick WHERE tick IN (
    SELECT tick FROM tick WHERE schedule = :schedule AND NOT running ORDER BY tick
    LIMIT (SELECT max(ticks - :max_rows, 0) FROM ledger WHERE schedule = :schedule)
)"""


class PutTick(Mutation, frozen=True):
    """Inserts a row of the ledger, or updates it by its number. Old rows of its schedule are deleted."""

    tick: Tick

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        ticks = [change.tick for _, change in changes]
        PUT.run(db, [(t.tick, t.schedule, t.outcome == "running", t.news, encode(t)) for t in ticks])
        for schedule in {tick.schedule for tick in ticks}:
            db.execute(PRUNE, {"schedule": schedule, "max_rows": MAX_LEDGER_ROWS})


TABLES = (Table(name="tick", mutations=(PutTick,)), Table(name="ledger"))

_decoder = Decoder(Tick)


def read_ticks(
    db: apsw.Connection, schedule: str | None = None, *, before: int | None = None, news: bool = False, limit: int = 50
) -> list[Tick]:
    """Returns rows of the ledger, newest first; with `before`, only those with a smaller number.

    The last MAX_LEDGER_ROWS of each schedule are kept, and those that are running.
    """
    page = {"schedule": schedule, "before": MAX_ID_PLUS_ONE if before is None else before, "limit": limit}
    return [
        _decoder.decode(row) for (row,) in db.execute(ticks_sql(one_schedule=schedule is not None, news=news), page)
    ]


def ticks_sql(*, one_schedule: bool, news: bool) -> str:
    """Returns the query of a page of the ledger; each of the four variants has an index of its own."""
    conditions = ("schedule = :schedule AND " if one_schedule else "") + ("news AND " if news else "")
    return f"SELECT body FROM tick WHERE {conditions}tick < :before ORDER BY tick DESC LIMIT :limit"  # noqa: S608 - only our own text


def read_running_ticks(db: apsw.Connection) -> list[Tick]:
    """Returns the ticks of outcome `running`, newest first."""
    return [_decoder.decode(row) for (row,) in db.execute(SELECT_RUNNING)]


def read_last_tick_and_seq(db: apsw.Connection) -> tuple[int, int]:
    """Returns the number of the last tick and the seq of the last daemon event; 0 if there is none."""
    tick: int | None
    seq: int | None
    tick, seq = db.execute(SELECT_LAST_TICK_AND_SEQ, (DAEMON_SESSION,)).get
    return tick or 0, seq or 0
