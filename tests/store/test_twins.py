"""Whatever is written, both stores answer alike."""

import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.stores import MemoryDisk, SqliteDisk, outcomes, write
from walrus_protocol.content import State, TickOutcome
from walrus_protocol.events import AssistantMessage, Parent, Ran, Tick, UserMessage, encode
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline, Turn
from walrusd.store.log import DAEMON, Filter, Log, Output, Queued, Schedule, Sent, Wanted, Write

small = st.integers(1, 4)
agents = st.sampled_from(["a", "b", "ü"])
states: st.SearchStrategy[State] = st.sampled_from(["idle", "processing", "executing_tool", "error", "closed"])
keys = st.sampled_from(["k", "é", ""])
turns = st.builds(Turn, number=small, first_seq=small, started_at=st.just(1.5))
sents = st.builds(Sent, key=keys, digest=st.binary(max_size=3), turn=st.none() | small)
filters = st.builds(
    Filter,
    agent=st.none() | agents,
    state=st.none() | states,
    include_closed=st.booleans(),
    before=st.none() | small,
    limit=small,
)
outputs = st.builds(Output, ref=keys, body=st.binary(max_size=5))
outcomes_of_ticks: st.SearchStrategy[TickOutcome] = st.sampled_from(["running", "ran", "skipped"])
texts = st.text("ab é漢字", min_size=1, max_size=9)
messages = st.builds(UserMessage, content=texts) | st.builds(AssistantMessage, round=small, content=texts)
facts = st.builds(Tick, tick=small, schedule=keys, agent=agents, slot=st.just(1.5), outcome=st.just("ran"))
bodies = st.binary(min_size=1, max_size=9) | messages.map(encode) | facts.map(encode)
QUERIES = ("a", "é b", "a*", '"a b"', "漢", "字漢 ab", "-")
STREAMS = (
    Wanted(),
    Wanted(sessions=frozenset({1, 2, DAEMON})),
    Wanted(agents=frozenset({"a", "ü"})),
    Wanted(types=frozenset({"user_message", "tick"})),
    Wanted(sessions=frozenset({1, 2, 3}), agents=frozenset({"b"}), types=frozenset({"assistant_message"})),
)
schedules = st.builds(
    Schedule,
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
        ran=draw(st.none() | st.builds(Ran, session=small, turn=small, cost_usd=st.none() | st.just(0.5))),
    )


@st.composite
def writes(draw: st.DrawFn) -> Write:
    session = draw(small | st.just(DAEMON))
    outlines = st.builds(
        Outline,
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
        Queued,
        place=small,
        kind=st.sampled_from(["message", "steer", "close"]),
        content=st.text(max_size=3),
        timeout_s=st.none() | st.just(1.5),
    )
    return write(
        session=session,
        outline=draw(st.none() | outlines) if session else None,
        bodies=draw(st.lists(bodies, max_size=3)),
        first_seq=draw(st.just(1) | st.integers(1, 12)),
        enqueue=draw(st.lists(queued, max_size=2)),
        dequeue=draw(st.lists(small, max_size=2)),
        sent=draw(st.lists(sents, max_size=2)),
        turn_opened=draw(st.none() | st.tuples(small, small)),
        turn_ended=draw(st.none() | st.tuples(small, small)),
        draft=draw(drafts),
        created_with=draw(st.none() | sents),
        output=draw(st.none() | outputs),
        ticks=draw(st.lists(ticks(), max_size=2)),
        schedule=draw(st.none() | schedules),
        expired=draw(st.lists(small, max_size=2)) if session == DAEMON else (),
        released=draw(st.lists(st.tuples(small, keys), max_size=2)),
    )


async def answers(log: Log, filters: list[Filter]) -> list[object]:
    """Everything that can be asked."""
    daemon_wide: list[object] = [await log.unfinished(), await log.open_sessions()]
    daemon_wide += [await log.outlines(wanted) for wanted in filters]
    daemon_wide += [await log.created_with(key) for key in ("k", "é", "")]
    daemon_wide += [await log.schedules(), await log.running_ticks(), await log.last_of_daemon()]
    for schedule in (None, "k", "é", "", "none"):
        daemon_wide += [await log.ticks(schedule, news=news) for news in (False, True)]
        daemon_wide += [await log.ticks(schedule, before=before, limit=2) for before in (2, 5, 9)]
    for enough in (0, 5, 99):
        daemon_wide += [await log.closed(before, enough=enough, most=2) for before in (4.0, 10.0)]
        daemon_wide += [
            await log.outputs("closed", enough=enough, most=9),
            await log.outputs("all", enough=enough, most=9),
        ]
    for query in QUERIES:
        daemon_wide += [await log.search(query), await log.search(query, before=4, limit=2)]
    everything = log.last_offset()
    daemon_wide.append(everything)
    for chosen in STREAMS:
        daemon_wide += [await log.stream(chosen, 0, everything, 100), await log.stream(chosen, 2, 9, 2)]
        daemon_wide += [await log.stream(chosen, since, everything, 100, 40) for since in (1, 5)]
    for session in range(5):
        daemon_wide += [
            await log.outline(session),
            await log.opening(session, 2),
            await log.opening(session, 100, 10),
            await log.events(session, 0, 100),
            await log.events(session, 2, 3, 10),
            await log.queue(session),
            await log.draft(session),
            [await log.sent(session, key) for key in ("k", "é", "")],
            [await log.output(session, key, at, 3) for key in ("k", "é", "") for at in (0, 1, 9)],
            [await log.span(session, turn) for turn in range(1, 5)],
        ]
    return daemon_wide


def told(settled: list[int | Exception]) -> list[int | str]:
    return [outcome if isinstance(outcome, int) else type(outcome).__name__ for outcome in settled]


def sensible(batches: list[list[Write]], gone: set[int]) -> Iterator[list[Write]]:
    """Without writes to sessions that were thrown away, or that go on from these or from themselves; and what throws
    some away is a batch of its own: closed sessions are not written.
    """
    for batch in batches:
        for expires, writes in groupby(batch, lambda write: bool(write.expired)):
            yield [write for write in writes if write.session not in gone and not goes_on(write, gone)]
            if expires:
                gone.update(session for write in batch for session in write.expired)


def goes_on(write: Write, gone: set[int]) -> bool:
    parent = write.outline.parent if write.outline else None
    return parent is not None and (parent.session in gone or parent.session >= write.session)


@given(lives=st.lists(st.lists(st.lists(writes(), max_size=5), max_size=3), max_size=2), wanted=st.lists(filters))
@settings(max_examples=60, deadline=None)  # no deadline: files are opened in it
async def test_both_stores_answer_alike_over_any_writes_and_restarts(
    lives: list[list[list[Write]]], wanted: list[Filter]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_file, in_memory = SqliteDisk(Path(folder)), MemoryDisk()
        gone: set[int] = set()
        for batches in [*lives, []]:
            ours, twin = await in_file.open(), await in_memory.open()
            for batch in sensible(batches, gone):
                if batch:
                    assert told(await outcomes(ours, *batch)) == told(await outcomes(twin, *batch))
            assert await answers(ours, wanted) == await answers(twin, wanted)
            assert await ours.sweep() == await twin.sweep()
            assert await answers(ours, wanted) == await answers(twin, wanted)
            assert ours.next_session() == twin.next_session()
            await ours.aclose()
            await twin.aclose()
