"""The turns of the sessions: where each begins and ends in the log."""

from collections.abc import Sequence
from typing import Self

import apsw
from msgspec import Struct

from walrusd.store.tables.table import BatchStatement, Mutation, Table

SELECT = "SELECT first_seq, last_seq FROM turn WHERE session = ? AND turn = ?"
INSERT = BatchStatement("INSERT INTO turn (session, turn, first_seq, last_seq) VALUES", 4)
END = BatchStatement(
    "WITH ended (session, turn, last_seq) AS (VALUES",
    3,
    """) UPDATE turn SET last_seq = ended.last_seq FROM ended
    WHERE turn.session = ended.session AND turn.turn = ended.turn""",
)


class TurnSpan(Struct, frozen=True):
    """The seqs of a turn's user message and of its `done` (None until the turn has ended)."""

    first_seq: int
    last_seq: int | None


class AddTurn(Mutation, frozen=True):
    """Stores a new turn of the session; `last_seq` is None if it has not ended."""

    turn: int
    first_seq: int
    last_seq: int | None = None

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        INSERT.run(db, [(session, one.turn, one.first_seq, one.last_seq) for session, one in changes])


class PutTurnEnd(Mutation, frozen=True):
    """Stores the seq of the `done` of a turn."""

    turn: int
    last_seq: int

    @classmethod
    def write(cls, db: apsw.Connection, changes: Sequence[tuple[int, Self]]) -> None:
        END.run(db, [(session, change.turn, change.last_seq) for session, change in changes])


TABLES = (Table(name="turn", session_column="session", mutations=(AddTurn, PutTurnEnd)),)


def read_turn_span(db: apsw.Connection, session: int, turn: int) -> TurnSpan | None:
    row: tuple[int, int | None] | None = db.execute(SELECT, (session, turn)).fetchone()
    return None if row is None else TurnSpan(*row)
