"""What nobody can read any more is thrown away, all of it and nothing else."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.deaths import lives_of
from tests.fakes.numbered_disk import numbered_disk
from tests.fakes.stores import LogDisk, MemoryDisk, SqliteDisk, commit, write
from tests.store import crashing_sweep
from tests.store.family import Family, history, rows
from walrus_protocol.chain import digest
from walrus_protocol.events import UserMessage, encode
from walrusd.session.outline import Outline
from walrusd.store.keeping import Claim, Closed, Swept
from walrusd.store.log import DAEMON, Log, Output, StorageFull
from walrusd.store.sweep import FREE_PAGES, PIECE

steps = st.one_of(
    st.tuples(st.just("make"), st.integers(1, 7)),
    st.tuples(st.just("fork"), st.integers(0, 99), st.integers(1, 7), st.integers(1, 4)),
    st.tuples(st.just("expire"), st.lists(st.integers(0, 99), min_size=1, max_size=3)),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("restart")),
)


@given(st.lists(steps, max_size=25))
@settings(max_examples=60, deadline=None)  # no deadline: files are opened in it
async def test_whatever_is_forked_thrown_away_and_swept_what_is_listed_is_whole_and_nothing_is_left_in_the_end(
    life: list[tuple[object, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_file = SqliteDisk(Path(folder))
        for disk in (in_file, MemoryDisk()):
            log = await lived(disk, life)
            await log.aclose()
        assert set(rows(Path(in_file.path)).values()) == {0}


async def lived(disk: LogDisk, life: list[tuple[object, ...]]) -> Log:
    family, log = Family(), await disk.open()
    for step in life:
        listed = sorted(family.whole)
        match step:
            case ("make", int(events)):
                await family.make(log, events)
            case ("fork", int(which), int(at), int(events)) if listed:
                parent = listed[which % len(listed)]
                await family.make(log, events, of=parent, at=min(at, family.own[parent]))
            case ("expire", list(which)) if listed:
                await family.expire(log, sorted({listed[number % len(listed)] for number in which}))
            case ("sweep",):
                await log.sweep()
            case ("restart",):
                await log.aclose()
                log = await disk.open()
            case _:
                pass
        assert {session: await history(log, session) for session in family.whole} == family.whole
    if family.whole:
        await family.expire(log, sorted(family.whole))
    await log.sweep()
    assert await log.sweep() == Swept(0, 0)
    return log


async def test_of_a_session_that_is_thrown_away_nothing_is_told_from_then_on(log: Log) -> None:
    family = Family()
    first, second = await family.make(log, 4), await family.make(log, 4)
    await family.expire(log, [first])
    for _ in range(2):
        assert await log.outline(first) is None
        assert await log.opening(first, 9) is None
        assert await log.sent(first, "k") is None
        assert await log.created_with(f"made {first}") is None
        assert await log.span(first, 1) is None
        assert await log.output(first, f"shared {first}", 0, 9) is None
        assert [(hit.session, hit.seq) for hit in await log.search("of")] == [(second, 4), (second, 2)]
        await log.sweep()
    assert await log.output(second, f"shared {second}", 0, 9) == b"o" * 9
    assert await log.events(first, 0, 9) == []


async def test_of_a_parent_that_is_gone_what_its_forks_read_stays_and_is_not_found(log: Log) -> None:
    family = Family()
    parent = await family.make(log, 6)
    fork = await family.make(log, 2, of=parent, at=4)
    await family.expire(log, [parent])
    assert await log.sweep() == Swept(2, 1)
    assert [row.seq for row in await log.events(parent, 0, 9)] == [1, 2, 3, 4]
    assert await history(log, fork) == family.whole[fork]
    assert [(hit.session, hit.seq) for hit in await log.search("of")] == [(fork, 2)]
    await family.expire(log, [fork])
    assert await log.sweep() == Swept(6, 1)


async def test_what_is_being_imported_is_left(log: Log) -> None:
    family = Family()
    session = await family.make(log, 3)
    await family.expire(log, [session])
    log.importing.add(session)
    assert (await log.sweep()).events == 0
    log.importing.discard(session)
    assert (await log.sweep()).events == 3


class BegunMeanwhile(set[int]):
    """Sessions whose import began right after somebody looked which these are."""

    def __iter__(self) -> Iterator[int]:
        return iter(())


async def test_what_begins_to_be_imported_while_it_is_looked_for_is_left(in_file: SqliteDisk) -> None:
    log = await in_file.open()
    await commit(log, write(session=7, unseen=[7]), write(session=7, bodies=[b"{}", b"{}"], first_seq=1))
    log.importing = BegunMeanwhile([7])
    assert await log.sweep() == Swept(0, 0)
    log.importing = set()
    assert await log.sweep() == Swept(2, 0)
    await log.aclose()


async def test_an_output_goes_with_the_last_that_has_it(log: Log) -> None:
    for n in (1, 2):
        await commit(log, write(session=n, outline=Outline(id=n), output=Output(ref="r", body=b"12345")))
    assert await log.outputs("all", enough=9, most=9) == [
        Claim(session=1, ref="r", bytes=5),
        Claim(session=2, ref="r", bytes=0),
    ]
    await commit(log, write(session=DAEMON, released=[(1, "r")]))
    assert await log.sweep() == Swept(0, 0)
    assert (await log.output(1, "r", 0, 9), await log.output(2, "r", 0, 9)) == (None, b"12345")
    await commit(log, write(session=DAEMON, released=[(2, "r")]))
    assert await log.sweep() == Swept(0, 1)


async def test_closed_sessions_are_told_oldest_first_and_no_more_than_are_asked_for(log: Log) -> None:
    family = Family()
    sessions = [await family.make(log, 3) for _ in range(4)]
    size = sum(map(len, family.whole[sessions[0]]))
    told = await log.closed(float(sessions[2]), enough=2**53, most=9)
    expected = [Closed(session=s, closed_at=float(s), turns=0, events=3, bytes=size) for s in sessions[:2]]
    assert told == expected
    assert await log.closed(2.0**53, enough=size, most=9) == expected[:1]
    assert await log.closed(2.0**53, enough=size + 1, most=9) == expected
    assert len(await log.closed(2.0**53, enough=2**53, most=3)) == 3


@pytest.fixture
def in_file(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


async def test_the_file_becomes_smaller_and_a_new_write_finds_some_room_in_it(in_file: SqliteDisk) -> None:
    log = await in_file.open()
    family = Family()
    await commit(log, write(session=99, output=Output(ref="large", body=b"x" * 20_000_000)))
    await family.make(log, 900)
    before = await log.room()
    await commit(log, write(session=DAEMON, released=[(99, "large")]))
    await log.sweep()
    after = await log.room()
    assert before.used_bytes - after.used_bytes > 19_000_000
    assert after.free_bytes == FREE_PAGES * 4096
    await log.aclose()
    assert log.sizes().db_bytes == after.used_bytes + after.free_bytes


async def test_what_was_indexed_of_it_goes_too(in_file: SqliteDisk) -> None:
    log = await in_file.open()
    bodies = [encode(UserMessage(content=" ".join(f"w{n}x{seq}" for n in range(1000)))) for seq in range(1, 101)]
    before = await log.room()
    outline = Outline(id=1, state="closed", last_seq=len(bodies))
    await commit(log, write(session=1, outline=outline, bodies=bodies, first_seq=1))
    full = await log.room()
    await commit(log, write(session=DAEMON, bodies=[b"{}"], first_seq=1, expired=[1]))
    await log.sweep()
    after = await log.room()
    assert after.used_bytes - before.used_bytes < (full.used_bytes - before.used_bytes) / 20
    await log.aclose()


async def test_writes_get_through_while_it_sweeps(in_file: SqliteDisk) -> None:
    log = await in_file.open()
    family = Family()
    session = await family.make(log, 20 * PIECE)
    await family.expire(log, [session])
    swept: list[Swept] = []

    async def sweep() -> None:
        swept.append(await log.sweep())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        for seq in range(1, 6):
            await commit(log, write(session=99, bodies=[b"{}"], first_seq=seq))
        assert not swept, "each waits for a piece or two, not for the whole"
    assert swept == [Swept(20 * PIECE, 1)]
    await log.aclose()


async def test_writes_get_through_while_it_sweeps_large_events_of_a_chain(in_file: SqliteDisk) -> None:
    in_file.chain = True
    log = await in_file.open()
    bodies = [encode(UserMessage(content=f"{seq:03d} of many. " * 70_000)) for seq in range(20)]
    await commit(log, write(session=1, outline=Outline(id=1, state="closed", last_seq=20), bodies=bodies, first_seq=1))
    await commit(log, write(session=DAEMON, bodies=[b"{}"], first_seq=1, expired=[1]))
    swept: list[Swept] = []

    async def sweep() -> None:
        swept.append(await log.sweep())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        for seq in range(1, 6):
            await commit(log, write(session=99, bodies=[b"{}"], first_seq=seq))
        assert not swept, "each waits for a piece or two, not for the whole"
    assert swept == [Swept(20, 0)]
    await log.aclose()


async def test_links_of_the_chain_tell_what_was_swept(in_file: SqliteDisk) -> None:
    in_file.chain = True
    log = await in_file.open()
    family = Family()
    session = await family.make(log, 5)
    bodies = family.whole[session]
    await family.expire(log, [session])
    await log.sweep()
    await log.aclose()
    db = apsw.Connection(in_file.path)
    kept = db.execute('SELECT seq, digest FROM link WHERE session = ? ORDER BY "offset"', (session,)).fetchall()
    db.close()
    assert kept == [(seq, digest(body)) for seq, body in enumerate(bodies, 1)]


async def test_a_sweep_on_a_disk_that_fails_says_so_and_the_next_one_goes_on(in_file: SqliteDisk) -> None:
    failing: list[OSError] = []

    def before(step: str, name: str) -> None:
        if failing:
            raise failing[0]

    with numbered_disk(before):
        log = await in_file.open()
        family = Family()
        session = await family.make(log, 5)
        await family.expire(log, [session])
        failing.append(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(StorageFull):
            await log.sweep()
        assert len(await log.events(session, 0, 9)) == 5
        failing.clear()
        assert await log.sweep() == Swept(5, 1)
        await log.aclose()


async def test_killed_at_any_step_nothing_that_is_listed_is_lost_and_the_next_start_sweeps_on(tmp_path: Path) -> None:
    survived = await lives_of(crashing_sweep.__file__, tmp_path)
    for step in range(1, survived + 1):
        disk = SqliteDisk(tmp_path / str(step))
        log = await disk.open()
        expired = await log.outline(crashing_sweep.PARENT) is None
        for session in (crashing_sweep.PARENT, crashing_sweep.FORK, crashing_sweep.OTHER):
            expected = crashing_sweep.WHOLE[session]
            assert await history(log, session) == (None if expired and session != crashing_sweep.FORK else expected)
        assert len(await log.events(DAEMON, 0, 9)) == expired, "the fact comes with what it tells of"
        await log.sweep()
        assert await history(log, crashing_sweep.FORK) == crashing_sweep.WHOLE[crashing_sweep.FORK]
        await log.aclose()
        left = rows(Path(disk.path))
        assert (left["event"], left["remains"]) == ((5, 1) if expired else (13, 0))
    assert survived > 30
