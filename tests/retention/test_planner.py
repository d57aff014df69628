"""A dry run reports what a run then deletes, and both follow the order of docs/space.md."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clock import FakeWallClock
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import FakeModel
from tests.fakes.stores import commit, write
from walrus_config.schema import StorageSettings
from walrus_protocol.events import Parent, UserMessage, encode
from walrusd.retention.clock_jump import DAY_S
from walrusd.retention.collector import RetentionCollector
from walrusd.retention.planner import MAX_BATCH_TURNS, NO_LIMIT, DeletionStats, DeletionStep, deletion_order, plan
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log
from walrusd.store.retention_contract import ClosedSession, OutputRef
from walrusd.store.tables.output import AddOutput, StoredOutput, read_output
from walrusd.store.tables.session import SessionFilter

NOON = 1_793_620_800.0
UNIT = 200_000
"""Bytes of which all sizes are multiples, so that the pages and indexes of SQLite make no difference."""
REFS = "abcde"


class PastSession(NamedTuple):
    """A session: the days since its close (None if open), its parent, the size of its message, and its outputs."""

    closed_days_ago: int | None
    parent: int | None
    message_units: int
    output_refs: frozenset[str]


def past_sessions(*, closed_forks: bool) -> st.SearchStrategy[list[PastSession]]:
    """Returns lists of sessions, numbered from 1; a parent that does not come before its fork is ignored."""
    days, parents = st.integers(1, 9), st.none() | st.integers(1, 5)
    sizes, refs = st.integers(1, 3), st.frozensets(st.sampled_from(REFS), max_size=3)
    closed = st.builds(PastSession, days, parents if closed_forks else st.none(), sizes, refs)
    return st.lists(closed | st.builds(PastSession, st.none(), parents, sizes, refs), max_size=7)


retention_days = st.none() | st.integers(1, 9)
excess_units = st.none() | st.integers(1, 30)


@asynccontextmanager
async def opened_store(
    past: list[PastSession], days: int | None, excess: int | None
) -> AsyncIterator[tuple[Log, RetentionCollector, StorageSettings]]:
    """Opens a store with these sessions, and a collector with limits that it exceeds by `excess` units."""
    log, clock = MemoryLog(), FakeWallClock(NOON)
    for number, one in enumerate(past, 1):
        await write_past_session(log, number, one)
    max_bytes = None if excess is None else (await log.space_usage()).used_bytes - excess * UNIT + UNIT // 2
    storage = StorageSettings(retain_closed_days=None if days is None else days - 0.5, max_db_bytes=max_bytes)
    async with Runtime(FakeModel(), log=log, clock=clock.now) as runtime:
        collector = RetentionCollector(
            log,
            runtime.session_cache,
            await DaemonRecorder.open(log),
            storage_settings=lambda: storage,
            clock=clock.now,
            on_event=lambda _: None,
        )
        yield log, collector, storage
    await log.aclose()


async def write_past_session(log: Log, session: int, past: PastSession) -> None:
    row = SessionState(
        id=session,
        agent="walrus",
        state="idle" if past.closed_days_ago is None else "closed",
        parent=Parent(session=past.parent, seq=1) if past.parent and past.parent < session else None,
        updated_at=NOON - (past.closed_days_ago or 0) * DAY_S,
        last_seq=1,
    )
    # Each text differs, because the same one is stored once; dots take no space in the search index.
    text = f"{session}" + "." * (past.message_units * UNIT)
    body = encode(UserMessage(content=text, session=session, ts=row.updated_at))
    await commit(log, write(session=session, session_state=row, bodies=[body], first_seq=1))
    for ref in sorted(past.output_refs):
        await commit(
            log, write(session=session, mutations=[AddOutput(StoredOutput(ref=ref, body=ref.encode() * UNIT))])
        )


@given(past_sessions(closed_forks=False), retention_days, excess_units)
@settings(max_examples=100, deadline=None)  # no deadline: it opens a runtime
async def test_a_dry_run_reports_what_gc_then_deletes(
    past: list[PastSession], days: int | None, excess: int | None
) -> None:
    async with opened_store(past, days, excess) as (_, collector, _):
        planned = await collector.collect(dry_run=True)
        deleted = await collector.collect(dry_run=False)
    assert (planned.sessions, planned.outputs, planned.events) == (deleted.sessions, deleted.outputs, deleted.events)
    assert abs(planned.bytes - deleted.bytes) < UNIT // 2


@given(past_sessions(closed_forks=True), retention_days, excess_units)
@settings(max_examples=100, deadline=None)  # no deadline: it opens a runtime
async def test_gc_deletes_in_the_promised_order_and_no_more_than_needed(
    past: list[PastSession], days: int | None, excess: int | None
) -> None:
    by_id = dict(enumerate(past, 1))
    parents = {one.parent for session, one in by_id.items() if one.parent and one.parent < session}
    async with opened_store(past, days, excess) as (log, collector, storage):
        await collector.collect(dry_run=False)
        listed = {row.id for row, _ in await log.list_sessions(SessionFilter(include_closed=True, limit=len(past) + 1))}
        refs = {
            session: {ref for ref in REFS if await log.read(read_output, session, ref, 0, 1) is not None}
            for session in listed
        }
        deletable = [one.session for one in await log.closed_sessions(NO_LIMIT, limit=99) if one.bytes]
        used_bytes = (await log.space_usage()).used_bytes
    closed = {session: one.closed_days_ago for session, one in by_id.items() if one.closed_days_ago}
    expired = {session for session, age in closed.items() if days is not None and age >= days}
    deleted_for_space = closed.keys() - listed - expired
    open_refs = set[str]().union(*(refs[session] for session in listed - closed.keys()))
    closed_only = set[str]().union(*(refs[session] for session in listed & closed.keys())) - open_refs
    assert by_id.keys() - closed.keys() <= listed, "open sessions stay"
    assert not expired & listed
    if deleted_for_space:
        assert not closed_only, "outputs that only closed sessions have are deleted first"
        youngest = min((closed[session], -session) for session in deleted_for_space)
        older = {session for session, age in closed.items() if (age, -session) > youngest}
        assert older & listed <= parents, "older sessions are deleted first, unless a fork inherits them"
    if any(by_id[session].output_refs != refs[session] for session in listed - closed.keys()):
        assert not closed_only
        assert not deletable, "outputs of open sessions are deleted last"
    if excess is None:
        assert not deleted_for_space
    elif used_bytes > (storage.max_db_bytes or 0):
        assert not deletable
        assert not open_refs | closed_only
    elif days is None:
        assert used_bytes > (storage.max_db_bytes or 0) - 3 * UNIT, "the last deletion was needed"


def test_a_forked_session_is_deleted_by_age_and_not_to_free_space() -> None:
    forked = ClosedSession(session=1, closed_at=1.0, turns=1, events=0, bytes=0, last_outputs=1, last_output_bytes=7)
    unforked = ClosedSession(session=2, closed_at=2.0, turns=1, events=5, bytes=100)
    by_age, _, by_space, _ = deletion_order(1.5)
    expired = plan(by_age, [forked], NO_LIMIT)
    assert (expired.sessions, expired.stats) == ([1], DeletionStats(sessions=1, outputs=1, bytes=7))
    freed = plan(by_space, [forked, unforked], 50)
    assert (freed.sessions, freed.stats) == ([2], DeletionStats(sessions=1, events=5, bytes=100))
    assert plan(by_space, [forked], 50).upto == forked.cursor


def test_no_more_outputs_are_planned_than_needed() -> None:
    outputs = [OutputRef(session=n, ref="a", bytes=0 if n == 1 else 10, position=1.0) for n in (1, 2, 3)]
    step = DeletionStep(source="outputs_of_open")
    planned = [plan(step, outputs, needed).outputs for needed in (1, 10, 11)]
    assert planned == [[(1, "a"), (2, "a")], [(1, "a"), (2, "a")], [(1, "a"), (2, "a"), (3, "a")]]


def test_the_turns_of_a_batch_are_bounded() -> None:
    long, short = (
        [ClosedSession(session=n, closed_at=1.0, turns=turns, events=1, bytes=1) for n in (1, 2, 3)]
        for turns in (MAX_BATCH_TURNS + 1, MAX_BATCH_TURNS // 2)
    )
    by_age = deletion_order(2.0)[0]
    assert plan(by_age, long, NO_LIMIT).sessions == [1]
    assert plan(by_age, short, NO_LIMIT).sessions == [1, 2]
