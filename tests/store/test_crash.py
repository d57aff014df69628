"""After a kill at any disk step a log has all acknowledged writes, and no partial write.

Its hash chain is valid, too.
"""

from pathlib import Path

import pytest
import trio

from tests.fakes.fork_and_kill import run_until_survived
from tests.fakes.stores import SqliteDisk, commit, write
from tests.store import crashing_writer
from tests.store.crashing_writer import ROUNDS, SESSIONS, numbered_write, tick
from walrus_protocol.database.verify_chain import ChainSegment, ChainVerdict, verify
from walrusd.store.contract import DAEMON_SESSION, Log, TurnSpan


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
    state, draft = await log.session_state(session), await log.draft(session)
    rows, queue = await log.events(session, 0, 100), await log.inbox(session)
    ledger = {tick.tick: tick for tick in await log.ticks(f"schedule {session}")}
    schedules = {schedule.name: schedule for schedule in await log.schedules()}
    return [
        [
            [row.body for row in rows if row.seq in {2 * number - 1, 2 * number}],
            state and state.turns == number,
            [queued for queued in queue if queued.place == number],
            draft and draft.round == number,
            await log.idempotency_key(session, f"key {session} {number}"),
            await log.session_created_with(f"key {session} {number}"),
            await log.turn_span(session, number),
            await log.output(session, f"key {session} {number}", 0, 9999),
            ledger.get(100 * session + number),
            schedules.get(f"schedule {session}") == numbered_write(session, number).schedule,
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
        written.enqueue if last else [],
        last if writes_done else None,
        *(
            (written.idempotency_keys[0], (session, b"d"), TurnSpan(2 * number - 1, 2 * number))
            if stored
            else (None, None, None)
        ),
        b"%d" % number * 5000 if stored else None,
        tick(session, number, "running" if last else "ran") if stored else None,
        last,
        [2 * number] if stored else [],
    ]
