"""Queries cost the same in a small and a large database.

The cost is the number of instructions of SQLite's virtual machine.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import apsw
import pytest

from tests.fakes.stores import SqliteDisk, commit, write
from walrus_protocol.content import State
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import Tick, UserMessage, encode
from walrusd.session.session_state import SessionState
from walrusd.store import search
from walrusd.store.database import open_for_reading
from walrusd.store.tables.output import AddOutput, StoredOutput, read_output
from walrusd.store.tables.session import SessionFilter, list_sessions, read_open_session_count, read_unfinished_sessions
from walrusd.store.tables.table import MAX_ID_PLUS_ONE
from walrusd.store.tables.tick import MAX_LEDGER_ROWS, PutTick, read_last_tick_and_seq, read_running_ticks, read_ticks
from walrusd.store.write_batch import insert_batch

MeasuredReads = dict[str, Callable[[apsw.Connection], object]]


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


def measure_costs(disk: SqliteDisk, reads: MeasuredReads) -> dict[str, int]:
    db = open_for_reading(disk.path)
    costs = {name: measure_cost(db, read) for name, read in reads.items()}
    db.close()
    return costs


def measure_cost(db: apsw.Connection, read: Callable[[apsw.Connection], object]) -> int:
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return False

    db.set_progress_handler(step, 1)
    read(db)
    db.set_progress_handler(None)
    return steps


async def test_ten_thousand_idle_sessions_cost_what_one_thousand_do(disk: SqliteDisk) -> None:
    log = await disk.open()
    states: tuple[State, ...] = ("idle", "idle", "error", "closed")
    reads: MeasuredReads = {"unfinished": read_unfinished_sessions, "open_sessions": read_open_session_count}
    for agent in (None, "agent1"):
        for state in (*states, "processing", None):
            for closed in (False, True):
                session_filter = SessionFilter(agent=agent, state=state, include_closed=closed)
                reads[f"{agent} {state} {closed}"] = partial(list_sessions, session_filter=session_filter)

    async def create(ids: range) -> None:
        session_states = [SessionState(id=n, agent=f"agent{n % 3}", state=states[n % 4]) for n in ids]
        await commit(log, *(write(session=o.id, session_state=o, bodies=[b"{}"], first_seq=1) for o in session_states))

    await create(range(1, 1001))
    with_few = measure_costs(disk, reads)
    await create(range(1001, 10_001))
    assert measure_costs(disk, reads) == with_few
    assert await log.read(read_open_session_count) == 7500
    await log.aclose()


def tick(number: int) -> Tick:
    return Tick(
        tick=number,
        schedule=f"schedule {number % 2}",
        agent="a",
        slot=0.0,
        outcome="running" if number <= 4 else "ran",
        news=number % 5 == 0,
    )


async def test_a_full_ledger_costs_what_a_short_one_does(disk: SqliteDisk) -> None:
    log = await disk.open()
    reads: MeasuredReads = {"running": read_running_ticks, "last": read_last_tick_and_seq}
    for schedule in (None, "schedule 0"):
        for news in (False, True):
            reads[f"{schedule} {news}"] = partial(read_ticks, schedule=schedule, before=None, news=news, limit=3)
    short, full = 100, 3 * MAX_LEDGER_ROWS

    async def fill(numbers: range) -> None:
        await commit(log, *(write(session=DAEMON_SESSION, mutations=[PutTick(tick(number))]) for number in numbers))

    await fill(range(1, short + 1))
    with_few, write_cost = measure_costs(disk, reads), measure_tick_write(disk, short + 1)
    await fill(range(short + 1, full + 1))
    assert measure_costs(disk, reads) == with_few
    assert len(await log.read(read_ticks, limit=full)) == 2 * MAX_LEDGER_ROWS
    assert measure_tick_write(disk, full + 1) < 2 * write_cost, "one tick is written, and one is pruned"
    await log.aclose()


def measure_tick_write(disk: SqliteDisk, number: int) -> int:
    """Returns the cost of writing the next tick; the write is rolled back."""
    db = apsw.Connection(disk.path)
    db.execute("BEGIN IMMEDIATE")
    steps = measure_cost(
        db,
        partial(
            insert_batch,
            batch=[write(session=DAEMON_SESSION, mutations=[PutTick(tick(number))])],
            first_offset=1,
            hash_chain=None,
        ),
    )
    db.execute("ROLLBACK")
    db.close()
    return steps


async def test_a_search_for_recent_messages_costs_the_same_in_a_large_log(disk: SqliteDisk) -> None:
    log = await disk.open()
    reads: MeasuredReads = {
        query: partial(search.search, query=query, before=MAX_ID_PLUS_ONE, limit=5)
        for query in ("word", "7 word", '"word 7"', "nothing")
    }

    async def write_messages(numbers: range) -> None:
        bodies = [encode(UserMessage(content=f"word {n % 10}")) for n in numbers]
        await commit(log, write(session=1, bodies=bodies, first_seq=numbers.start))

    await write_messages(range(1, 101))
    with_few = measure_costs(disk, reads)
    await write_messages(range(101, 5001))
    with_many = measure_costs(disk, reads)
    assert all(with_many[query] < 2 * with_few[query] for query in reads), "only the index is deeper"
    await log.aclose()


async def test_an_output_read_costs_the_same_among_many(disk: SqliteDisk) -> None:
    log = await disk.open()
    reads: MeasuredReads = {"output": partial(read_output, session=1, ref="r7", offset=2, limit=3)}

    async def store_outputs(numbers: range) -> None:
        await commit(
            log, *(write(session=1, mutations=[AddOutput(StoredOutput(ref=f"r{n}", body=b"x" * 9))]) for n in numbers)
        )

    await store_outputs(range(10))
    with_few = measure_costs(disk, reads)
    await store_outputs(range(10, 3000))
    assert measure_costs(disk, reads) == with_few
    await log.aclose()
