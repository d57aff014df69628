"""Whatever is written, both stores answer alike."""

import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.stores import MemoryDisk, SqliteDisk, submit_all, write
from walrus_protocol.content import State, TickOutcome
from walrus_protocol.events import AssistantMessage, Parent, Tick, TurnRef, UserMessage, encode
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState, TurnState
from walrusd.store.contract import (
    DAEMON_SESSION,
    IdempotencyKey,
    InboxEntry,
    Log,
    ScheduleRow,
    SessionFilter,
    StoredOutput,
    StreamFilter,
    Write,
)

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
outcomes_of_ticks: st.SearchStrategy[TickOutcome] = st.sampled_from(["running", "ran", "skipped"])
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
        outcome=draw(outcomes_of_ticks),
        news=draw(st.booleans()),
        text=draw(st.text(max_size=3)),
        ran=draw(st.none() | st.builds(TurnRef, session=small, turn=small, cost_usd=st.none() | st.just(0.5))),
    )


@st.composite
def writes(draw: st.DrawFn) -> Write:
    session = draw(small | st.just(DAEMON_SESSION))
    outlines = st.builds(
        SessionState,
        id=st.just(session),
        state=st.none() | states,
        agent=agents,
        title=st.text(),
        parent=st.none() | st.builds(Parent, session=small, seq=small),
        updated_at=st.floats(0, 9),
        turn=st.none() | turns,
    )
    drafts: st.SearchStrategy[Draft | Literal["keep", "drop"]] = st.one_of(
        st.sampled_from(["keep", "drop"]), st.builds(Draft, round=small, text=st.text())
    )
    queued = st.builds(
        InboxEntry,
        place=small,
        kind=st.sampled_from(["message", "steer", "close"]),
        content=st.text(max_size=3),
        timeout_s=st.none() | st.just(1.5),
    )
    return write(
        session=session,
        session_state=draw(st.none() | outlines) if session else None,
        bodies=draw(st.lists(bodies, max_size=3)),
        first_seq=draw(st.just(1) | st.integers(1, 12)),
        enqueue=draw(st.lists(queued, max_size=2)),
        dequeue=draw(st.lists(small, max_size=2)),
        idempotency_keys=draw(st.lists(idempotency_keys, max_size=2)),
        turn_opened=draw(st.none() | st.tuples(small, small)),
        turn_ended=draw(st.none() | st.tuples(small, small)),
        draft=draw(drafts),
        create_key=draw(st.none() | idempotency_keys),
        output=draw(st.none() | outputs),
        ticks=draw(st.lists(ticks(), max_size=2)),
        schedule=draw(st.none() | schedules),
        expired_sessions=draw(st.lists(small, max_size=2)) if session == DAEMON_SESSION else (),
        released_outputs=draw(st.lists(st.tuples(small, keys), max_size=2)),
    )


async def all_answers(log: Log, filters: list[SessionFilter]) -> list[object]:
    """Everything that can be asked."""
    daemon_wide: list[object] = [await log.unfinished_sessions(), await log.open_session_count()]
    daemon_wide += [await log.list_sessions(wanted) for wanted in filters]
    daemon_wide += [await log.session_created_with(key) for key in ("k", "é", "")]
    daemon_wide += [await log.schedules(), await log.running_ticks(), await log.last_tick_and_seq()]
    for schedule in (None, "k", "é", "", "none"):
        daemon_wide += [await log.ticks(schedule, news=news) for news in (False, True)]
        daemon_wide += [await log.ticks(schedule, before=before, limit=2) for before in (2, 5, 9)]
    for enough in (0, 5, 99):
        daemon_wide += [await log.closed_sessions(before, target_bytes=enough, limit=2) for before in (4.0, 10.0)]
        daemon_wide += [
            await log.output_refs("closed", target_bytes=enough, limit=9),
            await log.output_refs("all", target_bytes=enough, limit=9),
        ]
    for query in QUERIES:
        daemon_wide += [await log.search(query), await log.search(query, before=4, limit=2)]
    everything = log.last_offset()
    daemon_wide.append(everything)
    for chosen in STREAMS:
        daemon_wide += [await log.stream_page(chosen, 0, everything, 100), await log.stream_page(chosen, 2, 9, 2)]
        daemon_wide += [await log.stream_page(chosen, since, everything, 100, 40) for since in (1, 5)]
    for session in range(5):
        daemon_wide += [
            await log.session_state(session),
            await log.session_snapshot(session, 2),
            await log.session_snapshot(session, 100, 10),
            await log.events(session, 0, 100),
            await log.events(session, 2, 3, 10),
            await log.inbox(session),
            await log.draft(session),
            [await log.idempotency_key(session, key) for key in ("k", "é", "")],
            [await log.output(session, key, at, 3) for key in ("k", "é", "") for at in (0, 1, 9)],
            [await log.turn_span(session, turn) for turn in range(1, 5)],
        ]
    return daemon_wide


def comparable(results: list[int | Exception]) -> list[int | str]:
    return [outcome if isinstance(outcome, int) else type(outcome).__name__ for outcome in results]


def possible_batches(batches: list[list[Write]], deleted: set[int]) -> Iterator[list[Write]]:
    """Without writes to sessions that were thrown away, or that go on from these or from themselves; and what throws
    some away is a batch of its own: closed sessions are not written.
    """
    for batch in batches:
        for expires, writes in groupby(batch, lambda write: bool(write.expired_sessions)):
            yield [
                write for write in writes if write.session not in deleted and not has_impossible_parent(write, deleted)
            ]
            if expires:
                deleted.update(session for write in batch for session in write.expired_sessions)


def has_impossible_parent(write: Write, deleted: set[int]) -> bool:
    parent = write.session_state.parent if write.session_state else None
    return parent is not None and (parent.session in deleted or parent.session >= write.session)


@given(lives=st.lists(st.lists(st.lists(writes(), max_size=5), max_size=3), max_size=2), wanted=st.lists(filters))
@settings(max_examples=60, deadline=None)  # no deadline: files are opened in it
async def test_both_stores_answer_alike_over_any_writes_and_restarts(
    lives: list[list[list[Write]]], wanted: list[SessionFilter]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_file, in_memory = SqliteDisk(Path(folder)), MemoryDisk()
        gone: set[int] = set()
        for batches in [*lives, []]:
            ours, twin = await in_file.open(), await in_memory.open()
            for batch in possible_batches(batches, gone):
                if batch:
                    assert comparable(await submit_all(ours, *batch)) == comparable(await submit_all(twin, *batch))
            assert await all_answers(ours, wanted) == await all_answers(twin, wanted)
            assert await ours.sweep() == await twin.sweep()
            assert await all_answers(ours, wanted) == await all_answers(twin, wanted)
            assert ours.next_session() == twin.next_session()
            await ours.aclose()
            await twin.aclose()
