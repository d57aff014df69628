"""The rows of the daemon itself: the ledger of ticks, the state of its schedules, and its events."""

from functools import partial

from tests.fakes.stores import LogDisk, commit, submit_all, write
from walrus_protocol.database.schema import DAEMON_SESSION, MAX_DAEMON_EVENTS
from walrus_protocol.events import Tick, TurnRef
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.schedule import PutSchedule, ScheduleRow, read_schedules
from walrusd.store.tables.session import SessionFilter, read_open_session_count, read_unfinished_sessions
from walrusd.store.tables.tick import MAX_LEDGER_ROWS, PutTick, read_last_tick_and_seq, read_running_ticks, read_ticks

ran_tick = partial(Tick, schedule="a", agent="walrus", slot=60.0, outcome="ran")
running_tick = partial(Tick, schedule="a", agent="walrus", slot=60.0, outcome="running")


async def test_ticks_are_read_newest_first_of_one_schedule_or_of_all(log: Log) -> None:
    ticks = [
        ran_tick(tick=1, ran=TurnRef(session=7, turn=1, cost_usd=0.25), text="Done.", news=True, ended_at=61.5),
        ran_tick(tick=2, schedule="b"),
        ran_tick(tick=3, outcome="skipped", reason="quiet hours"),
        ran_tick(tick=4, schedule="b", news=True),
        ran_tick(tick=5, outcome="missed", count=12),
    ]
    await commit(
        log,
        write(session=DAEMON_SESSION, mutations=[*map(PutTick, ticks[:2])]),
        write(session=DAEMON_SESSION, mutations=[*map(PutTick, ticks[2:])]),
    )
    one, two, three, four, five = ticks
    assert await log.read(read_ticks) == [five, four, three, two, one]
    assert await log.read(read_ticks, "a") == [five, three, one]
    assert await log.read(read_ticks, "c") == []
    assert await log.read(read_ticks, news=True) == [four, one]
    assert await log.read(read_ticks, "a", news=True) == [one]
    assert await log.read(read_ticks, limit=2) == [five, four]
    assert await log.read(read_ticks, before=4, limit=2) == [three, two]
    assert await log.read(read_ticks, "a", before=5) == [three, one]
    assert await log.read(read_ticks, "b", before=4, news=True) == []


async def test_an_ended_tick_replaces_the_running_one(log: Log) -> None:
    await commit(
        log,
        write(
            session=DAEMON_SESSION,
            mutations=[PutTick(running_tick(tick=1)), PutTick(running_tick(tick=2, schedule="b"))],
        ),
    )
    assert await log.read(read_running_ticks) == [running_tick(tick=2, schedule="b"), running_tick(tick=1)]
    ended = ran_tick(tick=1, text="Look!", news=True)
    await commit(log, write(session=DAEMON_SESSION, mutations=[PutTick(ended)]))
    assert await log.read(read_running_ticks) == [running_tick(tick=2, schedule="b")]
    assert await log.read(read_ticks, "a", news=True) == [ended]


async def test_a_ledger_keeps_the_last_ticks_of_each_schedule_and_running_ones(log: Log) -> None:
    await commit(
        log,
        write(
            session=DAEMON_SESSION, mutations=[PutTick(running_tick(tick=1)), PutTick(ran_tick(tick=2, schedule="b"))]
        ),
    )
    for first in range(3, MAX_LEDGER_ROWS + 10, 100):
        await commit(
            log,
            write(session=DAEMON_SESSION, mutations=[*(PutTick(ran_tick(tick=n)) for n in range(first, first + 100))]),
        )
    last = (await log.read(read_ticks, limit=1))[0].tick
    numbers = [tick.tick for tick in await log.read(read_ticks, "a", limit=2 * MAX_LEDGER_ROWS)]
    assert numbers == [*range(last, last - MAX_LEDGER_ROWS + 1, -1), 1]
    assert await log.read(read_running_ticks) == [running_tick(tick=1)]
    await commit(log, write(session=DAEMON_SESSION, mutations=[PutTick(ran_tick(tick=1))]))
    await commit(log, write(session=DAEMON_SESSION, mutations=[PutTick(ran_tick(tick=last + 1))]))
    numbers = [tick.tick for tick in await log.read(read_ticks, "a", limit=2 * MAX_LEDGER_ROWS)]
    assert numbers == list(range(last + 1, last + 1 - MAX_LEDGER_ROWS, -1))
    assert await log.read(read_ticks, "b") == [ran_tick(tick=2, schedule="b")]


async def test_the_latest_daemon_events_are_kept(log: Log) -> None:
    await commit(
        log,
        write(session=DAEMON_SESSION, bodies=[b"1", b"2"], first_seq=1),
        write(session=1, bodies=[b"s"], first_seq=1),
    )
    await commit(log, write(session=DAEMON_SESSION, bodies=[b"3"], first_seq=MAX_DAEMON_EVENTS + 1))
    assert [row.seq for row in await log.events(DAEMON_SESSION, 0, 10)] == [2, MAX_DAEMON_EVENTS + 1]
    assert [row.body for row in await log.events(1, 0, 10)] == [b"s"], "events of sessions are never pruned"
    assert (await log.read(read_last_tick_and_seq))[1] == MAX_DAEMON_EVENTS + 1


async def test_a_schedule_is_read_as_it_was_last_written(log: Log) -> None:
    assert await log.read(read_schedules) == []
    b, a = ScheduleRow(name="b", next_slot=60.0), ScheduleRow(name="a", next_slot=1.5, paused=True)
    await commit(
        log,
        write(session=DAEMON_SESSION, mutations=[PutSchedule(b)]),
        write(session=DAEMON_SESSION, mutations=[PutSchedule(a)]),
    )
    assert await log.read(read_schedules) == [a, b]
    later = ScheduleRow(name="b", next_slot=120.0, failures=2, closed_until=90.0, seen="exit 1", session=4)
    await commit(log, write(session=DAEMON_SESSION, mutations=[PutSchedule(later)]))
    assert await log.read(read_schedules) == [a, later]


async def test_events_of_the_daemon_belong_to_no_session(log: Log) -> None:
    daemon_write = write(
        session=DAEMON_SESSION, bodies=[b'{"t":1}', b'{"t":2}'], first_seq=1, mutations=[PutTick(ran_tick(tick=1))]
    )
    assert await commit(log, write(session=1, bodies=[b"{}"], first_seq=1), daemon_write) == [1, 2]
    assert await log.events(DAEMON_SESSION, 0, 9) == [EventRow(1, 2, b'{"t":1}'), EventRow(2, 3, b'{"t":2}')]
    assert await log.list_sessions(SessionFilter(include_closed=True)) == []
    assert await log.session_state(DAEMON_SESSION) is None
    assert await log.read(read_unfinished_sessions) == []
    assert await log.read(read_open_session_count) == 0
    assert log.next_session() == 2


async def test_the_last_daemon_event_is_found_among_events_of_sessions(log: Log) -> None:
    assert await log.read(read_last_tick_and_seq) == (0, 0)
    await commit(
        log,
        write(session=3, session_state=SessionState(id=3, state="idle"), bodies=[b"{}"] * 9, first_seq=1),
        write(
            session=DAEMON_SESSION,
            bodies=[b"{}"],
            first_seq=1,
            mutations=[PutTick(ran_tick(tick=4)), PutTick(ran_tick(tick=5, schedule="b"))],
        ),
        write(session=DAEMON_SESSION, bodies=[b"{}"], first_seq=2),
    )
    assert await log.read(read_last_tick_and_seq) == (5, 2)


async def test_schedules_and_ticks_survive_a_restart(disk: LogDisk) -> None:
    log = await disk.open()
    schedule = ScheduleRow(name="a", next_slot=60.0, seen="é")
    daemon_write = write(
        session=DAEMON_SESSION,
        bodies=[b"{}"],
        first_seq=1,
        mutations=[PutTick(running_tick(tick=1)), PutSchedule(schedule)],
    )
    await commit(log, daemon_write)
    await log.aclose()
    log = await disk.open()
    assert await log.read(read_schedules) == [schedule]
    assert await log.read(read_ticks) == await log.read(read_running_ticks) == [running_tick(tick=1)]
    assert await log.read(read_last_tick_and_seq) == (1, 1)
    assert log.next_session() == 1
    await log.aclose()


async def test_a_write_that_fails_leaves_no_tick_and_no_schedule(log: Log) -> None:
    await commit(log, write(session=DAEMON_SESSION, bodies=[b"1"], first_seq=1))
    again = write(
        session=DAEMON_SESSION,
        bodies=[b"1"],
        first_seq=1,
        mutations=[PutTick(ran_tick(tick=1)), PutSchedule(ScheduleRow(name="a", next_slot=1.0))],
    )
    good, bad = await submit_all(log, write(session=DAEMON_SESSION, bodies=[b"2"], first_seq=2), again)
    assert good == 2
    assert isinstance(bad, StorageFailed)
    assert (await log.read(read_ticks), await log.read(read_schedules), await log.read(read_last_tick_and_seq)) == (
        [],
        [],
        (0, 2),
    )
