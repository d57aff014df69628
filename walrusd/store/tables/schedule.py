"""The states of the schedules."""

from collections.abc import Sequence
from typing import Self

import apsw
from msgspec import Struct
from msgspec.json import encode

from walrus_protocol.json import Decoder
from walrusd.store.tables.table import BatchStatement, Mutation, Table

SELECT = "SELECT body FROM schedule ORDER BY name"
PUT = BatchStatement(
    "INSERT INTO schedule (name, body) VALUES", 2, "ON CONFLICT (name) DO UPDATE SET body = excluded.body"
)


class ScheduleRow(Struct, frozen=True, kw_only=True):
    """The state of a schedule that must survive a restart. Its settings come from the configuration."""

    name: str
    next_slot: float
    paused: bool = False
    failures: int = 0
    """Number of ticks that failed in a row."""
    closed_until: float | None = None
    """Time until which its circuit breaker is open."""
    seen: str = ""
    """Output of the last run of its probe."""
    session: int | None = None
    """The session that all its ticks use, if it does not create one for each tick."""


class PutSchedule(Mutation, frozen=True):
    """Stores the state of a schedule."""

    row: ScheduleRow

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        PUT.run(db, [(change.row.name, encode(change.row)) for _, change in changes])


TABLES = (Table(name="schedule", mutations=(PutSchedule,)),)

_decoder = Decoder(ScheduleRow)


def read_schedules(db: apsw.Connection) -> list[ScheduleRow]:
    """Returns all schedules, sorted by name."""
    return [_decoder.decode(row) for (row,) in db.execute(SELECT)]
