"""After a kill at any disk step a log has all acknowledged writes, and no partial write.

Its hash chain is valid, too.
"""

from pathlib import Path

import pytest
import trio

from tests.fakes.fork_and_kill import run_until_survived
from tests.fakes.stores import SqliteDisk, commit, write
from tests.store import crashing_writer
from tests.store.crashing_writer import ROUNDS, SESSIONS, numbered_write, schedule_row, tick
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.database.verify_chain import ChainSegment, ChainVerdict, verify
from walrusd.store.contract import Log
from walrusd.store.tables.draft import read_draft
from walrusd.store.tables.idempotency_key import IdempotencyKey, read_key, read_session_created_with
from walrusd.store.tables.inbox import Enqueue, read_inbox
from walrusd.store.tables.output import read_output
from walrusd.store.tables.schedule import read_schedules
from walrusd.store.tables.tick import read_ticks
from walrusd.store.tables.turn import TurnSpan, read_turn_span


@pytest.mark.slow
async def test_a_killed_log_has_all_acknowledged_writes_and_no_partial_write(tmp_path: Path) -> None:
    survived = await run_until_survived(crashing_writer.__file__, tmp_path)
    for step in range(1, survived + 1):
        folder = tmp_path / str(step)
        acknowledged = await read_acknowledged(folder / "acknowledged")
        disk = SqliteDisk(folder, chain=True)
        log = await disk.open()
        offsets = {(s, row.seq): row.offset for s in range(1, SESSIONS + 1) for row in await log.events(s, 0, 100)}
        for session, last_seq, first_offset in acknowledged:
            assert offsets[session, last_seq - 1] == first_offset
            assert offsets[session, last_seq] == first_offset + 1
        assert sorted(offsets.values()) == list(range(1, len(offsets) + 1))
        for session in range(1, SESSIONS + 1):
            writes_done = sum(s == session for s, _ in offsets) // 2
            assert await stored_state(log, session) == [
                expected_state(session, number, writes_done) for number in range(1, ROUNDS + 1)
            ]
        assert await commit(log, write(session=DAEMON_SESSION, bodies=[b"next"], first_seq=1)) == [len(offsets) + 1]
        await log.aclose()
        assert verify(disk.path) == ChainVerdict(
            (ChainSegment(1, len(offsets) + 1, True),), log.chain_head, len(offsets) + 1
        )
    assert len(acknowledged) == SESSIONS * ROUNDS


async def read_acknowledged(path: Path) -> list[tuple[int, int, int]]:
    written = (line.split() for line in (await trio.Path(path).read_text()).splitlines())
    return [(int(session), int(last_seq), int(offset)) for session, last_seq, offset in written]


async def stored_state(log: Log, session: int) -> list[list[object]]:
    """Returns the stored rows of every write that the session may have made."""
    state, draft = await log.session_state(session), await log.read(read_draft, session)
    rows, queue = await log.events(session, 0, 100), await log.read(read_inbox, session)
    ledger = {tick.tick: tick for tick in await log.read(read_ticks, f"schedule {session}")}
    schedules = {schedule.name: schedule for schedule in await log.read(read_schedules)}
    return [
        [
            [row.body for row in rows if row.seq in {2 * number - 1, 2 * number}],
            state and state.turns == number,
            [queued for queued in queue if queued.place == number],
            draft and draft.round == number,
            await log.read(read_key, session, f"key {session} {number}"),
            await log.read(read_session_created_with, f"key {session} {number}"),
            await log.read(read_turn_span, session, number),
            await log.read(read_output, session, f"key {session} {number}", 0, 9999),
            ledger.get(100 * session + number),
            schedules.get(f"schedule {session}") == schedule_row(session, number),
            [hit.seq for hit in await log.search(f'"said {session} {number}"')],
        ]
        for number in range(1, ROUNDS + 1)
    ]


def expected_state(session: int, number: int, writes_done: int) -> list[object]:
    """Returns the rows of a write if exactly the first `writes_done` writes were committed."""
    written = numbered_write(session, number)
    stored, last = number <= writes_done, number == writes_done
    return [
        written.bodies if stored else [],
        last if writes_done else None,
        [change.entry for change in written.mutations if isinstance(change, Enqueue)] if last else [],
        last if writes_done else None,
        *(
            (
                IdempotencyKey(key=f"key {session} {number}", digest=b"d", turn=number),
                (session, b"d"),
                TurnSpan(2 * number - 1, 2 * number),
            )
            if stored
            else (None, None, None)
        ),
        b"%d" % number * 5000 if stored else None,
        tick(session, number, "running" if last else "ran") if stored else None,
        last,
        [2 * number] if stored else [],
    ]
