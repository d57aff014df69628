"""Killed before any step on the disk, a log has all that it acknowledged, every write whole or not at all, and a whole
chain.
"""

from pathlib import Path

import trio

from tests.fakes.deaths import lives_of
from tests.fakes.stores import SqliteDisk, commit, write
from tests.store import crashing_writer
from tests.store.crashing_writer import ROUNDS, SESSIONS, fact, tick
from walrusctl.chain import Stretch, Verdict, verify
from walrusd.store.log import DAEMON, Log, Span


async def test_killed_at_any_step_a_log_keeps_what_it_acknowledged_and_no_half_write(tmp_path: Path) -> None:
    survived = await lives_of(crashing_writer.__file__, tmp_path)
    for step in range(1, survived + 1):
        folder = tmp_path / str(step)
        acknowledged = await lines(folder / "acknowledged")
        disk = SqliteDisk(folder, chain=True)
        log = await disk.open()
        offsets = {(s, row.seq): row.offset for s in range(1, SESSIONS + 1) for row in await log.events(s, 0, 100)}
        for session, last_seq, first_offset in acknowledged:
            assert offsets[session, last_seq - 1] == first_offset
            assert offsets[session, last_seq] == first_offset + 1
        assert sorted(offsets.values()) == list(range(1, len(offsets) + 1))
        for session in range(1, SESSIONS + 1):
            done = sum(s == session for s, _ in offsets) // 2
            assert await facts_of(log, session) == [fact_of(session, number, done) for number in range(1, ROUNDS + 1)]
        assert await commit(log, write(session=DAEMON, bodies=[b"on"], first_seq=1)) == [len(offsets) + 1]
        await log.aclose()
        assert verify(disk.path) == Verdict((Stretch(1, len(offsets) + 1, True),), log.head, len(offsets) + 1)
    assert len(acknowledged) == SESSIONS * ROUNDS


async def lines(path: Path) -> list[tuple[int, int, int]]:
    written = (line.split() for line in (await trio.Path(path).read_text()).splitlines())
    return [(int(session), int(last_seq), int(offset)) for session, last_seq, offset in written]


async def facts_of(log: Log, session: int) -> list[list[object]]:
    """What the log has of every write that the session may have made."""
    outline, draft = await log.outline(session), await log.draft(session)
    rows, queue = await log.events(session, 0, 100), await log.queue(session)
    ledger = {tick.tick: tick for tick in await log.ticks(f"schedule {session}")}
    schedules = {schedule.name: schedule for schedule in await log.schedules()}
    return [
        [
            [row.body for row in rows if row.seq in {2 * number - 1, 2 * number}],
            outline and outline.turns == number,
            [queued for queued in queue if queued.place == number],
            draft and draft.round == number,
            await log.sent(session, f"key {session} {number}"),
            await log.created_with(f"key {session} {number}"),
            await log.span(session, number),
            await log.output(session, f"key {session} {number}", 0, 9999),
            ledger.get(100 * session + number),
            schedules.get(f"schedule {session}") == fact(session, number).schedule,
            [hit.seq for hit in await log.search(f'"said {session} {number}"')],
        ]
        for number in range(1, ROUNDS + 1)
    ]


def fact_of(session: int, number: int, done: int) -> list[object]:
    """The same, where the first `done` writes are whole and the others never were."""
    written = fact(session, number)
    there, last = number <= done, number == done
    return [
        written.bodies if there else [],
        last if done else None,
        written.enqueue if last else [],
        last if done else None,
        *((written.sent[0], (session, b"d"), Span(2 * number - 1, 2 * number)) if there else (None, None, None)),
        b"%d" % number * 5000 if there else None,
        tick(session, number, "running" if last else "ran") if there else None,
        last,
        [2 * number] if there else [],
    ]
