"""A process that writes to a log, and is killed at every step (see `fork_and_kill`).

Each folder has the database and the file `acknowledged` with a line for every acknowledged write: session, last seq,
offset.
"""

import os
from pathlib import Path

import trio

from tests.fakes.fork_and_kill import kill_at_every_step
from tests.fakes.stores import SqliteDisk, commit, write
from walrus_protocol.content import TickOutcome
from walrus_protocol.events import Tick, UserMessage, encode
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log, Write
from walrusd.store.tables.draft import SaveDraft
from walrusd.store.tables.idempotency_key import AddCreateKey, IdempotencyKey, PutKey
from walrusd.store.tables.inbox import Dequeue, Enqueue, InboxEntry
from walrusd.store.tables.output import AddOutput, StoredOutput
from walrusd.store.tables.schedule import PutSchedule, ScheduleRow
from walrusd.store.tables.tick import PutTick
from walrusd.store.tables.turn import AddTurn, PutTurnEnd

SESSIONS, ROUNDS = 3, 3


def numbered_write(session: int, number: int) -> Write:
    """Returns a write of two events that changes every table."""
    seq = 2 * number - 1
    key = f"key {session} {number}"
    return write(
        session=session,
        session_state=SessionState(id=session, state="idle", last_seq=seq + 1, turns=number),
        bodies=[b"%d" % seq, encode(UserMessage(content=f"said {session} {number}"))],
        first_seq=seq,
        mutations=[
            Enqueue(InboxEntry(place=number, kind="message")),
            Dequeue(number - 1),
            PutKey(IdempotencyKey(key=key, digest=b"d", turn=number)),
            AddTurn(number, seq),
            PutTurnEnd(number, seq + 1),
            SaveDraft(Draft(turn=1, round=number)),
            AddCreateKey(key, b"d"),
            AddOutput(StoredOutput(ref=key, body=b"%d" % number * 5000)),
            PutTick(tick(session, number - 1, "ran")),
            PutTick(tick(session, number, "running")),
            PutSchedule(schedule_row(session, number)),
        ],
    )


def schedule_row(session: int, number: int) -> ScheduleRow:
    return ScheduleRow(name=f"schedule {session}", next_slot=number)


def tick(session: int, number: int, outcome: TickOutcome) -> Tick:
    return Tick(tick=100 * session + number, schedule=f"schedule {session}", agent="a", slot=number, outcome=outcome)


async def write_all(folder: Path) -> None:
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT)
    log = await SqliteDisk(folder, durability="full", chain=True).open()

    async def write_session(log: Log, session: int) -> None:
        for number in range(1, ROUNDS + 1):
            (offset,) = await commit(log, numbered_write(session, number))
            os.write(acknowledged, b"%d %d %d\n" % (session, 2 * number, offset))

    async with trio.open_nursery() as nursery:
        for session in range(1, SESSIONS + 1):
            nursery.start_soon(write_session, log, session)
    await log.aclose()


if __name__ == "__main__":
    kill_at_every_step(write_all, prepare=lambda _: None)
