"""A log in a file, written in batches, equals a log in memory, written one by one, after any writes and restarts."""

import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.stores import MemoryDisk, SqliteDisk, submit_all, write
from walrus_protocol.content import State, TickOutcome
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import AssistantMessage, Parent, Tick, TurnRef, UserMessage, encode
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState, TurnState
from walrusd.store.contract import Log, StreamFilter, Write
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables.draft import DropDraft, SaveDraft, read_draft
from walrusd.store.tables.idempotency_key import (
    AddCreateKey,
    IdempotencyKey,
    PutKey,
    read_key,
    read_session_created_with,
)
from walrusd.store.tables.inbox import Dequeue, Enqueue, InboxEntry, read_inbox
from walrusd.store.tables.output import AddOutput, ReleaseOutput, StoredOutput, read_output
from walrusd.store.tables.schedule import PutSchedule, ScheduleRow, read_schedules
from walrusd.store.tables.session import SessionFilter, read_open_session_count, read_unfinished_sessions
from walrusd.store.tables.table import Mutation
from walrusd.store.tables.tick import PutTick, read_last_tick_and_seq, read_running_ticks, read_ticks
from walrusd.store.tables.turn import AddTurn, PutTurnEnd, read_turn_span

small = st.integers(1, 4)
agents = st.sampled_from(["a", "b", "ü"])
states: st.SearchStrategy[State] = st.sampled_from(["idle", "processing", "executing_tool", "error", "closed"])
keys = st.sampled_from(["k", "é", ""])
turns = st.builds(TurnState, number=small, first_seq=small, started_at=st.just(1.5))
idempotency_keys = st.builds(IdempotencyKey, key=keys, digest=st.binary(max_size=3), turn=st.none() | small)
filters = st.builds(
    SessionFilter,
    agent=st.none() | agents,
    state=st.none() | states,
    include_closed=st.booleans(),
    before=st.none() | small,
    limit=small,
)
outputs = st.builds(StoredOutput, ref=keys, body=st.binary(max_size=5))
tick_outcomes: st.SearchStrategy[TickOutcome] = st.sampled_from(["running", "ran", "skipped"])
texts = st.text("ab é漢字", min_size=1, max_size=9)
messages = st.builds(UserMessage, content=texts) | st.builds(AssistantMessage, round=small, content=texts)
daemon_events = st.builds(Tick, tick=small, schedule=keys, agent=agents, slot=st.just(1.5), outcome=st.just("ran"))
bodies = st.binary(min_size=1, max_size=9) | messages.map(encode) | daemon_events.map(encode)
QUERIES = ("a", "é b", "a*", '"a b"', "漢", "字漢 ab", "-")
STREAMS = (
    StreamFilter(),
    StreamFilter(sessions=frozenset({1, 2, DAEMON_SESSION})),
    StreamFilter(agents=frozenset({"a", "ü"})),
    StreamFilter(types=frozenset({"user_message", "tick"})),
    StreamFilter(sessions=frozenset({1, 2, 3}), agents=frozenset({"b"}), types=frozenset({"assistant_message"})),
)
schedules = st.builds(
    ScheduleRow,
    name=keys,
    next_slot=st.floats(0, 9),
    paused=st.booleans(),
    failures=small,
    closed_until=st.none() | st.just(1.5),
    seen=st.text(max_size=3),
    session=st.none() | small,
)


@st.composite
def ticks(draw: st.DrawFn) -> Tick:
    number = draw(st.integers(1, 9))
    return Tick(
        tick=number,
        schedule=("k", "é", "")[number % 3],
        agent=draw(agents),
        slot=draw(st.floats(0, 9)),
        outcome=draw(tick_outcomes),
        news=draw(st.booleans()),
        text=draw(st.text(max_size=3)),
        ran=draw(st.none() | st.builds(TurnRef, session=small, turn=small, cost_usd=st.none() | st.just(0.5))),
    )


queued = st.builds(
    InboxEntry,
    place=small,
    kind=st.sampled_from(["message", "steer", "close"]),
    content=st.text(max_size=3),
    timeout_s=st.none() | st.just(1.5),
)
mutations: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(Enqueue, queued),
    st.builds(Dequeue, small),
    st.builds(PutKey, idempotency_keys),
    st.builds(AddTurn, small, small, st.none() | small),
    st.builds(PutTurnEnd, small, small),
    st.builds(SaveDraft, st.builds(Draft, turn=small, round=small, text=st.text())),
    st.just(DropDraft()),
    st.builds(AddCreateKey, keys, st.binary(max_size=3)),
    st.builds(AddOutput, outputs),
    st.builds(PutTick, ticks()),
    st.builds(PutSchedule, schedules),
)
daemon_mutations: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(ExpireSession, small), st.builds(ReleaseOutput, small, keys)
)


@st.composite
def writes(draw: st.DrawFn) -> Write:
    session = draw(small | st.just(DAEMON_SESSION))
    session_states = st.builds(
        SessionState,
        id=st.just(session),
        state=st.none() | states,
        agent=agents,
        title=st.text(),
        parent=st.none() | st.builds(Parent, session=small, seq=small),
        updated_at=st.floats(0, 9),
        turn=st.none() | turns,
    )
    return write(
        session=session,
        session_state=draw(st.none() | session_states) if session else None,
        bodies=draw(st.lists(bodies, max_size=3)),
        first_seq=draw(st.just(1) | st.integers(1, 12)),
        mutations=[
            *draw(st.lists(mutations, max_size=6)),
            *draw(st.lists(daemon_mutations, max_size=2) if session == DAEMON_SESSION else st.just(())),
        ],
    )


async def all_results(log: Log, filters: list[SessionFilter]) -> list[object]:
    """Returns the results of all read methods."""
    results: list[object] = [await log.read(read_unfinished_sessions), await log.read(read_open_session_count)]
    results += [await log.list_sessions(one) for one in filters]
    results += [await log.read(read_session_created_with, key) for key in ("k", "é", "")]
    results += [
        await log.read(read_schedules),
        await log.read(read_running_ticks),
        await log.read(read_last_tick_and_seq),
    ]
    for schedule in (None, "k", "é", "", "none"):
        results += [await log.read(read_ticks, schedule, news=news) for news in (False, True)]
        results += [await log.read(read_ticks, schedule, before=before, limit=2) for before in (2, 5, 9)]
    results += [await log.closed_sessions(before, limit=limit) for before in (4.0, 10.0) for limit in (2, 9)]
    scopes: tuple[Literal["closed", "open"], ...] = ("closed", "open")
    for scope in scopes:
        # The row numbers of the two stores differ.
        results += [(one.session, one.ref, one.bytes) for one in await log.output_refs(scope, limit=9)]
    for query in QUERIES:
        results += [await log.search(query), await log.search(query, before=4, limit=2)]
    last_offset = log.last_offset()
    results.append(last_offset)
    for stream_filter in STREAMS:
        results += [
            await log.stream_page(stream_filter, 0, last_offset, 100),
            await log.stream_page(stream_filter, 2, 9, 2),
        ]
        results += [await log.stream_page(stream_filter, since, last_offset, 100, 40) for since in (1, 5)]
    for session in range(5):
        results += [
            await log.session_state(session),
            await log.session_snapshot(session, 2),
            await log.session_snapshot(session, 100, 10),
            await log.events(session, 0, 100),
            await log.events(session, 2, 3, 10),
            await log.read(read_inbox, session),
            await log.read(read_draft, session),
            [await log.read(read_key, session, key) for key in ("k", "é", "")],
            [await log.read(read_output, session, key, at, 3) for key in ("k", "é", "") for at in (0, 1, 9)],
            [await log.read(read_turn_span, session, turn) for turn in range(1, 5)],
        ]
    return results


def comparable(results: list[int | Exception]) -> list[int | str]:
    return [outcome if isinstance(outcome, int) else type(outcome).__name__ for outcome in results]


def possible_batches(batches: list[list[Write]], deleted: set[int]) -> Iterator[list[Write]]:
    """Yields batches as the runtime could write them.

    Writes to deleted sessions are omitted, and writes of sessions that are forks of deleted ones or of themselves. A
    write that deletes sessions is in a batch of its own: closed sessions are not written.
    """
    for batch in batches:
        for expires, writes in groupby(batch, lambda write: bool(expired_sessions(write))):
            yield [
                write for write in writes if write.session not in deleted and not has_impossible_parent(write, deleted)
            ]
            if expires:
                deleted.update(session for write in batch for session in expired_sessions(write))


def expired_sessions(write: Write) -> list[int]:
    return [mutation.session for mutation in write.mutations if isinstance(mutation, ExpireSession)]


def has_impossible_parent(write: Write, deleted: set[int]) -> bool:
    parent = write.session_state.parent if write.session_state else None
    return parent is not None and (parent.session in deleted or parent.session >= write.session)


@pytest.mark.slow
@given(
    runs=st.lists(st.lists(st.lists(writes(), max_size=5), max_size=3), max_size=2), session_filters=st.lists(filters)
)
@settings(max_examples=60, deadline=None)  # no deadline: it opens files
async def test_batches_in_a_file_and_single_writes_in_memory_give_the_same_results_over_restarts(
    runs: list[list[list[Write]]], session_filters: list[SessionFilter]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sqlite_disk, memory_disk = SqliteDisk(Path(folder)), MemoryDisk()
        deleted: set[int] = set()
        for batches in [*runs, []]:
            sqlite_log, memory_log = await sqlite_disk.open(), await memory_disk.open()
            for batch in possible_batches(batches, deleted):
                if batch:
                    one_by_one = [outcome for one in batch for outcome in await submit_all(memory_log, one)]
                    assert comparable(one_by_one) == comparable(await submit_all(sqlite_log, *batch))
            assert await all_results(sqlite_log, session_filters) == await all_results(memory_log, session_filters)
            assert await sqlite_log.sweep() == await memory_log.sweep()
            assert await all_results(sqlite_log, session_filters) == await all_results(memory_log, session_filters)
            assert sqlite_log.next_session() == memory_log.next_session()
            await sqlite_log.aclose()
            await memory_log.aclose()
