"""What the daemon keeps of its own: the ledger of ticks, how its schedules stand, and its facts."""

from functools import partial

from tests.fakes.stores import LogDisk, commit, outcomes, write
from walrus_protocol.events import Ran, Tick
from walrusd.session.outline import Outline
from walrusd.store.log import DAEMON, DAEMON_FACTS, LEDGER, Filter, Log, Schedule, StorageFailed, Stored

ran = partial(Tick, schedule="a", agent="walrus", slot=60.0, outcome="ran")
running = partial(Tick, schedule="a", agent="walrus", slot=60.0, outcome="running")


async def test_ticks_are_read_newest_first_of_one_schedule_or_of_all(log: Log) -> None:
    ticks = [
        ran(tick=1, ran=Ran(session=7, turn=1, cost_usd=0.25), text="Done.", news=True, ended_at=61.5),
        ran(tick=2, schedule="b"),
        ran(tick=3, outcome="skipped", reason="quiet hours"),
        ran(tick=4, schedule="b", news=True),
        ran(tick=5, outcome="missed", count=12),
    ]
    await commit(log, write(session=DAEMON, ticks=ticks[:2]), write(session=DAEMON, ticks=ticks[2:]))
    one, two, three, four, five = ticks
    assert await log.ticks() == [five, four, three, two, one]
    assert await log.ticks("a") == [five, three, one]
    assert await log.ticks("c") == []
    assert await log.ticks(news=True) == [four, one]
    assert await log.ticks("a", news=True) == [one]
    assert await log.ticks(limit=2) == [five, four]
    assert await log.ticks(before=4, limit=2) == [three, two]
    assert await log.ticks("a", before=5) == [three, one]
    assert await log.ticks("b", before=4, news=True) == []


async def test_a_tick_that_ended_takes_the_place_of_the_one_that_ran(log: Log) -> None:
    await commit(log, write(session=DAEMON, ticks=[running(tick=1), running(tick=2, schedule="b")]))
    assert await log.running_ticks() == [running(tick=2, schedule="b"), running(tick=1)]
    ended = ran(tick=1, text="Look!", news=True)
    await commit(log, write(session=DAEMON, ticks=[ended]))
    assert await log.running_ticks() == [running(tick=2, schedule="b")]
    assert await log.ticks("a", news=True) == [ended]


async def test_a_ledger_keeps_the_last_of_each_schedule_and_what_is_running(log: Log) -> None:
    await commit(log, write(session=DAEMON, ticks=[running(tick=1), ran(tick=2, schedule="b")]))
    for first in range(3, LEDGER + 10, 100):
        await commit(log, write(session=DAEMON, ticks=[ran(tick=n) for n in range(first, first + 100)]))
    last = (await log.ticks(limit=1))[0].tick
    kept = [tick.tick for tick in await log.ticks("a", limit=2 * LEDGER)]
    assert kept == [*range(last, last - LEDGER + 1, -1), 1]
    assert await log.running_ticks() == [running(tick=1)]
    await commit(log, write(session=DAEMON, ticks=[ran(tick=1)]))
    await commit(log, write(session=DAEMON, ticks=[ran(tick=last + 1)]))
    kept = [tick.tick for tick in await log.ticks("a", limit=2 * LEDGER)]
    assert kept == list(range(last + 1, last + 1 - LEDGER, -1))
    assert await log.ticks("b") == [ran(tick=2, schedule="b")]


async def test_of_the_daemons_facts_the_latest_are_kept(log: Log) -> None:
    await commit(
        log, write(session=DAEMON, bodies=[b"1", b"2"], first_seq=1), write(session=1, bodies=[b"s"], first_seq=1)
    )
    await commit(log, write(session=DAEMON, bodies=[b"3"], first_seq=DAEMON_FACTS + 1))
    assert [row.seq for row in await log.events(DAEMON, 0, 10)] == [2, DAEMON_FACTS + 1]
    assert [row.body for row in await log.events(1, 0, 10)] == [b"s"], "of a session nothing is forgotten"
    assert (await log.last_of_daemon())[1] == DAEMON_FACTS + 1


async def test_a_schedule_stands_as_it_was_last_written(log: Log) -> None:
    assert await log.schedules() == []
    b, a = Schedule(name="b", next_slot=60.0), Schedule(name="a", next_slot=1.5, paused=True)
    await commit(log, write(session=DAEMON, schedule=b), write(session=DAEMON, schedule=a))
    assert await log.schedules() == [a, b]
    later = Schedule(name="b", next_slot=120.0, failures=2, closed_until=90.0, seen="exit 1", session=4)
    await commit(log, write(session=DAEMON, schedule=later))
    assert await log.schedules() == [a, later]


async def test_facts_of_the_daemon_are_no_session(log: Log) -> None:
    facts = write(session=DAEMON, bodies=[b'{"t":1}', b'{"t":2}'], first_seq=1, ticks=[ran(tick=1)])
    assert await commit(log, write(session=1, bodies=[b"{}"], first_seq=1), facts) == [1, 2]
    assert await log.events(DAEMON, 0, 9) == [Stored(1, 2, b'{"t":1}'), Stored(2, 3, b'{"t":2}')]
    assert await log.outlines(Filter(include_closed=True)) == []
    assert await log.outline(DAEMON) is None
    assert await log.unfinished() == []
    assert await log.open_sessions() == 0
    assert log.next_session() == 2


async def test_the_last_of_the_daemon_is_found_whatever_sessions_say(log: Log) -> None:
    assert await log.last_of_daemon() == (0, 0)
    await commit(
        log,
        write(session=3, outline=Outline(id=3, state="idle"), bodies=[b"{}"] * 9, first_seq=1),
        write(session=DAEMON, bodies=[b"{}"], first_seq=1, ticks=[ran(tick=4), ran(tick=5, schedule="b")]),
        write(session=DAEMON, bodies=[b"{}"], first_seq=2),
    )
    assert await log.last_of_daemon() == (5, 2)


async def test_all_that_the_daemon_keeps_is_there_after_a_restart(disk: LogDisk) -> None:
    log = await disk.open()
    schedule = Schedule(name="a", next_slot=60.0, seen="é")
    facts = write(session=DAEMON, bodies=[b"{}"], first_seq=1, ticks=[running(tick=1)], schedule=schedule)
    await commit(log, facts)
    await log.aclose()
    log = await disk.open()
    assert await log.schedules() == [schedule]
    assert await log.ticks() == await log.running_ticks() == [running(tick=1)]
    assert await log.last_of_daemon() == (1, 1)
    assert log.next_session() == 1
    await log.aclose()


async def test_a_write_that_fails_leaves_no_tick_and_no_schedule(log: Log) -> None:
    await commit(log, write(session=DAEMON, bodies=[b"1"], first_seq=1))
    again = write(
        session=DAEMON, bodies=[b"1"], first_seq=1, ticks=[ran(tick=1)], schedule=Schedule(name="a", next_slot=1.0)
    )
    good, bad = await outcomes(log, write(session=DAEMON, bodies=[b"2"], first_seq=2), again)
    assert good == 2
    assert isinstance(bad, StorageFailed)
    assert (await log.ticks(), await log.schedules(), await log.last_of_daemon()) == ([], [], (0, 2))
