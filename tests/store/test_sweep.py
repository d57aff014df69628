"""A sweep deletes all data that can no longer be read, and nothing else."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import apsw
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes.fault_injecting_vfs import fault_injecting_vfs
from tests.fakes.fork_and_kill import run_until_survived
from tests.fakes.stores import LogDisk, MemoryDisk, SqliteDisk, commit, write
from tests.store import crashing_sweep
from tests.store.fork_tree import ForkTree, read_full_log, row_counts
from walrus_protocol.database.hash_chain import hash_body
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import UserMessage, encode
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log
from walrusd.store.errors import StorageFull
from walrusd.store.expiry import ExpireSession
from walrusd.store.retention_contract import CURSOR_START, ClosedSession, OutputRef, SweepStats
from walrusd.store.sweep import MAX_EVENTS, RESERVED_FREE_PAGES
from walrusd.store.tables.idempotency_key import read_key, read_session_created_with
from walrusd.store.tables.output import AddOutput, ReleaseOutput, StoredOutput, read_output
from walrusd.store.tables.remains import AddUnlisted
from walrusd.store.tables.turn import read_turn_span

operation_strategy = st.one_of(
    st.tuples(st.just("make"), st.integers(1, 7)),
    st.tuples(st.just("fork"), st.integers(0, 99), st.integers(1, 7), st.integers(1, 4)),
    st.tuples(st.just("expire"), st.lists(st.integers(0, 99), min_size=1, max_size=3)),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("restart")),
)


@pytest.mark.slow
@given(st.lists(operation_strategy, max_size=25))
@settings(max_examples=60, deadline=None)  # no deadline: it opens files
async def test_after_any_operations_listed_sessions_are_whole_and_nothing_leaks(
    operations: list[tuple[object, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sqlite_disk = SqliteDisk(Path(folder))
        for disk in (sqlite_disk, MemoryDisk()):
            log = await run_operations(disk, operations)
            await log.aclose()
        assert set(row_counts(Path(sqlite_disk.path)).values()) == {0}


async def run_operations(disk: LogDisk, operations: list[tuple[object, ...]]) -> Log:
    tree, log = ForkTree(), await disk.open()
    for step in operations:
        listed = sorted(tree.full_logs)
        match step:
            case ("make", int(events)):
                await tree.create_session(log, events)
            case ("fork", int(which), int(at), int(events)) if listed:
                parent = listed[which % len(listed)]
                await tree.create_session(log, events, parent_id=parent, at=min(at, tree.own_events[parent]))
            case ("expire", list(which)) if listed:
                await tree.expire(log, sorted({listed[number % len(listed)] for number in which}))
            case ("sweep",):
                await log.sweep()
            case ("restart",):
                await log.aclose()
                log = await disk.open()
            case _:
                pass
        assert {session: await read_full_log(log, session) for session in tree.full_logs} == tree.full_logs
    if tree.full_logs:
        await tree.expire(log, sorted(tree.full_logs))
    await log.sweep()
    assert await log.sweep() == SweepStats(0, 0)
    return log


async def test_nothing_of_a_deleted_session_is_returned(log: Log) -> None:
    tree = ForkTree()
    first, second = await tree.create_session(log, 4), await tree.create_session(log, 4)
    await tree.expire(log, [first])
    for _ in range(2):
        assert await log.session_state(first) is None
        assert await log.session_snapshot(first, 9) is None
        assert await log.read(read_key, first, "k") is None
        assert await log.read(read_session_created_with, f"made {first}") is None
        assert await log.read(read_turn_span, first, 1) is None
        assert await log.read(read_output, first, f"shared {first}", 0, 9) is None
        assert [(hit.session, hit.seq) for hit in await log.search("of")] == [(second, 4), (second, 2)]
        await log.sweep()
    assert await log.read(read_output, second, f"shared {second}", 0, 9) == b"o" * 9
    assert await log.events(first, 0, 9) == []


async def test_inherited_events_of_a_deleted_parent_stay_but_search_does_not_find_them(log: Log) -> None:
    tree = ForkTree()
    parent = await tree.create_session(log, 6)
    fork = await tree.create_session(log, 2, parent_id=parent, at=4)
    await tree.expire(log, [parent])
    assert await log.sweep() == SweepStats(2, 1)
    assert [row.seq for row in await log.events(parent, 0, 9)] == [1, 2, 3, 4]
    assert await read_full_log(log, fork) == tree.full_logs[fork]
    assert [(hit.session, hit.seq) for hit in await log.search("of")] == [(fork, 2)]
    await tree.expire(log, [fork])
    assert await log.sweep() == SweepStats(6, 1)


async def test_a_sweep_leaves_sessions_that_are_being_imported(log: Log) -> None:
    tree = ForkTree()
    session = await tree.create_session(log, 3)
    await tree.expire(log, [session])
    log.importing_sessions.add(session)
    assert (await log.sweep()).events == 0
    log.importing_sessions.discard(session)
    assert (await log.sweep()).events == 3


class StaleImportSet(set[int]):
    """A set that is empty when it is copied, as if the imports began right afterwards."""

    def __iter__(self) -> Iterator[int]:
        return iter(())


async def test_a_sweep_leaves_an_import_that_begins_during_the_sweep(sqlite_disk: SqliteDisk) -> None:
    log = await sqlite_disk.open()
    await commit(
        log, write(session=7, mutations=[AddUnlisted(7)]), write(session=7, bodies=[b"{}", b"{}"], first_seq=1)
    )
    log.importing_sessions = StaleImportSet([7])
    assert await log.sweep() == SweepStats(0, 0)
    log.importing_sessions = set()
    assert await log.sweep() == SweepStats(2, 0)
    await log.aclose()


async def test_an_output_is_deleted_with_its_last_owner(log: Log) -> None:
    for n in (1, 2):
        await commit(
            log,
            write(
                session=n, session_state=SessionState(id=n), mutations=[AddOutput(StoredOutput(ref="r", body=b"12345"))]
            ),
        )
    assert await log.output_refs("open", limit=9) == [
        OutputRef(session=1, ref="r", bytes=0, position=1),
        OutputRef(session=2, ref="r", bytes=5, position=1),
    ]
    await commit(log, write(session=DAEMON_SESSION, mutations=[ReleaseOutput(1, "r")]))
    assert await log.sweep() == SweepStats(0, 0)
    assert (await log.read(read_output, 1, "r", 0, 9), await log.read(read_output, 2, "r", 0, 9)) == (None, b"12345")
    await commit(log, write(session=DAEMON_SESSION, mutations=[ReleaseOutput(2, "r")]))
    assert await log.sweep() == SweepStats(0, 1)


async def test_unreadable_closed_sessions_are_skipped_and_hide_no_others(tmp_path: Path) -> None:
    disk, tree = SqliteDisk(tmp_path), ForkTree()
    log = await disk.open()
    sessions = [await tree.create_session(log, 3) for _ in range(4)]
    with closing(apsw.Connection(disk.path)) as db:
        db.execute("UPDATE session SET outline = x'ff' WHERE id IN (?, ?)", sessions[:2])
    found = await log.closed_sessions(2.0**53, limit=1)
    assert [one.session for one in found] == [sessions[2]]
    found = await log.closed_sessions(2.0**53, limit=9)
    assert [one.session for one in found] == sessions[2:]
    await log.aclose()


async def test_closed_sessions_are_listed_oldest_first_and_no_more_than_requested(log: Log) -> None:
    tree = ForkTree()
    sessions = [await tree.create_session(log, 3) for _ in range(4)]
    size = sum(map(len, tree.full_logs[sessions[0]]))
    listed = await log.closed_sessions(float(sessions[2]), limit=9)
    expected = [ClosedSession(session=s, closed_at=float(s), turns=0, events=3, bytes=size) for s in sessions[:2]]
    assert [replace(one, last_outputs=0, last_output_bytes=0) for one in listed] == expected
    assert len(await log.closed_sessions(2.0**53, limit=3)) == 3


async def test_deletion_candidates_are_read_in_pages_without_gaps(log: Log) -> None:
    closing_times = {1: 2.0, 2: None, 3: 2.0, 4: 1.0, 5: None}
    for n, closed_at in closing_times.items():
        state = SessionState(id=n, state="closed" if closed_at else "idle", updated_at=closed_at or 9.0)
        await commit(log, write(session=n, session_state=state))
    for n, refs in ((1, "ax"), (2, "b"), (3, "ab"), (4, "ac"), (5, "c")):
        for ref in refs:
            await commit(log, write(session=n, mutations=[AddOutput(StoredOutput(ref=ref, body=b"12345"))]))
    pages: dict[str, list[tuple[int, str, int]]] = {"closed": [], "open": []}
    scopes: tuple[Literal["closed", "open"], ...] = ("closed", "open")
    for scope in scopes:
        after = CURSOR_START
        while page := await log.output_refs(scope, after=after, limit=1):
            after = page[-1].cursor
            pages[scope] += [(one.session, one.ref, one.bytes) for one in page]
    # An output is freed with the last session in the list that has it.
    assert pages == {
        "closed": [(4, "a", 0), (1, "a", 0), (1, "x", 5), (3, "a", 5)],
        "open": [(2, "b", 0), (3, "b", 5), (4, "c", 0), (5, "c", 5)],
    }
    sessions, after = [], CURSOR_START
    while found := await log.closed_sessions(9.0, after=after, limit=1):
        after = found[-1].cursor
        sessions += [(one.session, one.last_outputs, one.last_output_bytes) for one in found]
    assert sessions == [(4, 0, 0), (1, 1, 5), (3, 1, 5)]


@pytest.fixture
def sqlite_disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


async def test_a_sweep_shrinks_the_file_but_leaves_some_free_pages(sqlite_disk: SqliteDisk) -> None:
    log = await sqlite_disk.open()
    tree = ForkTree()
    await commit(log, write(session=99, mutations=[AddOutput(StoredOutput(ref="large", body=b"x" * 20_000_000))]))
    await tree.create_session(log, 900)
    before = await log.space_usage()
    await commit(log, write(session=DAEMON_SESSION, mutations=[ReleaseOutput(99, "large")]))
    await log.sweep()
    after = await log.space_usage()
    assert before.used_bytes - after.used_bytes > 19_000_000
    assert after.free_bytes == RESERVED_FREE_PAGES * 4096
    await log.aclose()
    assert log.file_sizes().db_bytes == after.used_bytes + after.free_bytes


async def test_index_entries_of_a_deleted_session_are_deleted(sqlite_disk: SqliteDisk) -> None:
    log = await sqlite_disk.open()
    bodies = [encode(UserMessage(content=" ".join(f"w{n}x{seq}" for n in range(1000)))) for seq in range(1, 101)]
    before = await log.space_usage()
    state = SessionState(id=1, state="closed", last_seq=len(bodies))
    await commit(log, write(session=1, session_state=state, bodies=bodies, first_seq=1))
    full = await log.space_usage()
    await commit(log, write(session=DAEMON_SESSION, bodies=[b"{}"], first_seq=1, mutations=[ExpireSession(1)]))
    await log.sweep()
    after = await log.space_usage()
    assert after.used_bytes - before.used_bytes < (full.used_bytes - before.used_bytes) / 20
    await log.aclose()


async def test_writes_succeed_during_a_sweep(sqlite_disk: SqliteDisk) -> None:
    log = await sqlite_disk.open()
    tree = ForkTree()
    session = await tree.create_session(log, 20 * MAX_EVENTS)
    await tree.expire(log, [session])
    swept: list[SweepStats] = []

    async def sweep() -> None:
        swept.append(await log.sweep())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        for seq in range(1, 6):
            await commit(log, write(session=99, bodies=[b"{}"], first_seq=seq))
        assert not swept, "each write waits for one or two transactions, not for the whole sweep"
    assert swept == [SweepStats(20 * MAX_EVENTS, 1)]
    await log.aclose()


async def test_writes_succeed_during_a_sweep_of_large_chained_events(sqlite_disk: SqliteDisk) -> None:
    sqlite_disk.chain = True
    log = await sqlite_disk.open()
    bodies = [encode(UserMessage(content=f"{seq:03d} of many. " * 70_000)) for seq in range(20)]
    await commit(
        log, write(session=1, session_state=SessionState(id=1, state="closed", last_seq=20), bodies=bodies, first_seq=1)
    )
    await commit(log, write(session=DAEMON_SESSION, bodies=[b"{}"], first_seq=1, mutations=[ExpireSession(1)]))
    swept: list[SweepStats] = []

    async def sweep() -> None:
        swept.append(await log.sweep())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        for seq in range(1, 6):
            await commit(log, write(session=99, bodies=[b"{}"], first_seq=seq))
        assert not swept, "each write waits for one or two transactions, not for the whole sweep"
    assert swept == [SweepStats(20, 0)]
    await log.aclose()


async def test_chain_links_keep_the_digests_of_swept_events(sqlite_disk: SqliteDisk) -> None:
    sqlite_disk.chain = True
    log = await sqlite_disk.open()
    tree = ForkTree()
    session = await tree.create_session(log, 5)
    bodies = tree.full_logs[session]
    await tree.expire(log, [session])
    await log.sweep()
    await log.aclose()
    db = apsw.Connection(sqlite_disk.path)
    digests = db.execute('SELECT seq, digest FROM link WHERE session = ? ORDER BY "offset"', (session,)).fetchall()
    db.close()
    assert digests == [(seq, hash_body(body)) for seq, body in enumerate(bodies, 1)]


async def test_a_sweep_on_a_failing_disk_raises_and_the_next_one_continues(sqlite_disk: SqliteDisk) -> None:
    failing: list[OSError] = []

    def before(step: str, name: str) -> None:
        if failing:
            raise failing[0]

    with fault_injecting_vfs(before):
        log = await sqlite_disk.open()
        tree = ForkTree()
        session = await tree.create_session(log, 5)
        await tree.expire(log, [session])
        failing.append(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(StorageFull):
            await log.sweep()
        assert len(await log.events(session, 0, 9)) == 5
        failing.clear()
        assert await log.sweep() == SweepStats(5, 1)
        await log.aclose()


@pytest.mark.slow
async def test_a_kill_during_a_sweep_loses_no_listed_session_and_the_sweep_can_continue(tmp_path: Path) -> None:
    survived = await run_until_survived(crashing_sweep.__file__, tmp_path)
    for step in range(1, survived + 1):
        disk = SqliteDisk(tmp_path / str(step))
        log = await disk.open()
        expired = await log.session_state(crashing_sweep.PARENT) is None
        for session in (crashing_sweep.PARENT, crashing_sweep.FORK, crashing_sweep.OTHER):
            expected = crashing_sweep.FULL_LOGS[session]
            assert await read_full_log(log, session) == (
                None if expired and session != crashing_sweep.FORK else expected
            )
        assert len(await log.events(DAEMON_SESSION, 0, 9)) == expired, (
            "the daemon event is in the transaction that deletes the sessions"
        )
        await log.sweep()
        assert await read_full_log(log, crashing_sweep.FORK) == crashing_sweep.FULL_LOGS[crashing_sweep.FORK]
        await log.aclose()
        counts = row_counts(Path(disk.path))
        assert (counts["event"], counts["remains"]) == ((5, 1) if expired else (13, 0))
    assert survived > 30
