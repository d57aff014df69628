"""The readers of one session: every fact once and in order, live events in their place, and nobody waits for them."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.runtime.machine_valve import Valve
from walrus_protocol.content import State
from walrus_protocol.events import (
    AnyEvent,
    AssistantMessage,
    Done,
    Lagged,
    SessionCreated,
    StateChanged,
    TextDelta,
    ThinkingDelta,
    UserMessage,
)
from walrusd.ports import TextSaid, ThinkingSaid
from walrusd.runtime.bus import LIVE_BUFFER, PAGE, WINDOW, WINDOW_BYTES, Fact, Item, Reader
from walrusd.runtime.drafts import Speech
from walrusd.runtime.everything import Everything
from walrusd.runtime.kept import Kept
from walrusd.runtime.sessions import LiveSession, Sessions, Shared
from walrusd.store.memory import MemoryLog


def broken(bug: BaseException) -> None:
    raise AssertionError from bug


async def new_session() -> LiveSession:
    log = MemoryLog()
    shared = Shared(
        log=log,
        clock=lambda: 1.0,
        see=lambda agent, event: None,
        broken=broken,
        everything=Everything(log, lambda: 1.0),
    )
    return await Sessions(shared, Kept(600)).create(SessionCreated(agent="walrus"))


@pytest.fixture
async def live() -> LiveSession:
    return await new_session()


async def turns(live: LiveSession, count: int, text: str = "hi") -> None:
    for _ in range(count):
        await live.recorder.record(UserMessage(content=text))
        await live.recorder.record(Done(stop_reason="no_action"))


async def everything(reader: Reader, limit: int = PAGE) -> list[AnyEvent]:
    """All that is there for it now, in the order in which it tells it; of facts, none twice and none left out."""
    seq, events = reader.cursor, []
    while items := await now(reader, limit):
        for item in items:
            seq += isinstance(item, Fact)
            assert item.position == seq
            events.append(item.event)
    return events


async def now(reader: Reader, limit: int) -> list[Item]:
    """What `batch` gives without a wait for what is to come."""
    items: list[Item] = []

    async def read() -> None:
        items.extend(await reader.batch(limit))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(items) <= max(limit, 3), "a mark and the text so far go with the last"
    return items


def said(text: str, at: int) -> TextDelta:
    return TextDelta(ts=1.0, session=1, turn=1, text=text, round=1, at=at)


def state(state: State, turn: int | None = 1) -> StateChanged:
    return StateChanged(ts=1.0, session=1, turn=turn, state=state)


def kinds(events: list[AnyEvent]) -> list[type[AnyEvent]]:
    return [type(event) for event in events]


@pytest.mark.parametrize("limit", [1, 100, PAGE])
async def test_what_the_window_no_longer_holds_comes_from_the_store(live: LiveSession, limit: int) -> None:
    await turns(live, WINDOW)
    with live.feed.reader(0) as reader:
        assert kinds(await everything(reader, limit)) == [SessionCreated] + [UserMessage, Done] * WINDOW


async def test_facts_that_are_too_large_for_the_window_come_from_the_store(live: LiveSession) -> None:
    await turns(live, 4, "x" * (WINDOW_BYTES // 3))
    with live.feed.reader(0) as reader:
        assert kinds(await everything(reader)) == [SessionCreated] + [UserMessage, Done] * 4


@pytest.mark.parametrize("limit", [1, 2, PAGE])
async def test_live_events_have_their_places_among_facts_that_come_from_the_store(
    live: LiveSession, limit: int
) -> None:
    with live.feed.reader(1, mark=True) as reader:
        assert kinds(await everything(reader)) == [StateChanged]
        for turn in range(1, 5):
            await live.recorder.record(UserMessage(content="x" * (WINDOW_BYTES // 2)))
            live.say(said("one", turn))
            await live.recorder.record(AssistantMessage(round=1, content="x" * (WINDOW_BYTES // 2)))
            live.say(said("two", turn))
            await live.recorder.record(Done(stop_reason="text_response"))
        told = await everything(reader, limit)
        a_turn = [UserMessage, StateChanged, TextDelta, AssistantMessage, TextDelta, Done, StateChanged]
        assert kinds(told) == a_turn * 4


async def test_a_row_that_is_durable_and_not_yet_published_is_not_told(live: LiveSession) -> None:
    log = Valve(live.shared.log)
    fresh = await Sessions(replace(live.shared, log=log), Kept(600)).get(live.id)
    log.hold("after")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fresh.recorder.record, UserMessage(content="hi"))
        await trio.testing.wait_all_tasks_blocked()
        rows = len(await live.shared.log.events(live.id, 0, PAGE))
        log.holds = None
        with fresh.feed.reader(0, mark=True) as reader:
            early = await everything(reader)
            log.release()
            assert (rows, early) == (2, [SessionCreated(ts=1.0, session=1, agent="walrus"), state("idle", None)])
            assert kinds(await everything(reader)) == [UserMessage, StateChanged]


async def test_a_reader_begins_behind_the_seq_that_it_names(live: LiveSession) -> None:
    await turns(live, 2)
    with live.feed.reader(3) as reader:
        assert kinds(await everything(reader)) == [UserMessage, Done]
    with live.feed.reader(5) as reader:
        assert await everything(reader) == []


@pytest.mark.parametrize("later", [0, WINDOW])
async def test_live_events_keep_their_place_between_the_facts(live: LiveSession, later: int) -> None:
    with live.feed.reader(0) as reader:
        await everything(reader)
        await live.recorder.record(UserMessage(content="hi"))
        live.say(said("he", 0))
        live.say(said("llo", 2))
        await live.recorder.record(AssistantMessage(round=1, content="hello"))
        await live.recorder.record(Done(stop_reason="text_response"))
        await turns(live, later)
        assert kinds(await everything(reader))[:8] == [
            UserMessage,
            StateChanged,
            TextDelta,
            TextDelta,
            AssistantMessage,
            Done,
            StateChanged,
            *([UserMessage] if later else []),
        ]


async def test_live_events_that_a_slow_reader_has_no_room_for_are_dropped_and_counted_once(live: LiveSession) -> None:
    with live.feed.reader(0) as slow, live.feed.reader(0) as quick:
        await everything(slow)
        await everything(quick)
        await live.recorder.record(UserMessage(content="hi"))
        heard: list[AnyEvent] = []
        for at in range(LIVE_BUFFER + 10):
            live.say(said("x", at))
            heard += [item.event for item in await quick.batch()]
        await live.recorder.record(Done(stop_reason="error"))
        events = await everything(slow)
        assert events[1] == state("processing")
        assert events[2 : LIVE_BUFFER + 1] == [said("x", at) for at in range(LIVE_BUFFER - 1)]
        assert kinds(events[LIVE_BUFFER + 1 :]) == [Done, Lagged]
        assert events[-1] == Lagged(ts=1.0, session=1, dropped=12)
        live.say(state("idle"))
        assert await everything(slow) == [state("idle")]
        assert heard[2:] == [said("x", at) for at in range(LIVE_BUFFER + 10)]


async def test_however_many_live_events_a_reader_misses_it_misses_no_fact(live: LiveSession) -> None:
    with live.feed.reader(0) as slow:
        await everything(slow)
        for turn in range(1, WINDOW):
            await live.recorder.record(UserMessage(content="hi"))
            for at in range(8):
                live.say(TextDelta(ts=1.0, session=1, turn=turn, text="x", round=1, at=at))
            await live.recorder.record(Done(stop_reason="no_action"))
        facts = [event for event in await everything(slow, 7) if isinstance(event, UserMessage | Done)]
        assert kinds([*facts]) == [UserMessage, Done] * (WINDOW - 1)


@given(st.lists(st.tuples(st.sampled_from([TextSaid, ThinkingSaid]), st.text(min_size=1, max_size=3))), st.data())
def test_one_who_comes_late_gets_the_text_so_far_and_then_the_rest_without_gap_or_overlap(
    pieces: list[tuple[type[TextSaid | ThinkingSaid], str]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(pieces)))

    async def story() -> None:
        live = await new_session()
        await live.recorder.record(UserMessage(content="hi"))
        live.speech = speech = Speech(1, 1, "fake")

        def say(piece: TextSaid | ThinkingSaid) -> None:
            kind = TextDelta if isinstance(piece, TextSaid) else ThinkingDelta
            live.say(kind(ts=1.0, session=1, turn=1, text=piece.text, round=1, at=speech.add(piece)))

        for kind, text in pieces[:cut]:
            say(kind(text))
        with live.feed.reader(1, mark=True) as reader:
            caught_up = await everything(reader)
            for kind, text in pieces[cut:]:
                say(kind(text))
            rest = await everything(reader)
        assert kinds(caught_up[:2]) == [UserMessage, StateChanged]
        for event in (TextDelta, ThinkingDelta):
            assert sum(isinstance(each, event) for each in caught_up) <= 1
            together = [each for each in [*caught_up, *rest] if isinstance(each, event)]
            draft = speech.draft()
            assert "".join(each.text for each in together) == (draft.text if event is TextDelta else draft.thinking)
            assert [each.at for each in together] == [
                sum(len(before.text) for before in together[:n]) for n in range(len(together))
            ]

    trio.run(story)


async def test_one_who_wants_no_deltas_gets_facts_states_and_what_waits(live: LiveSession) -> None:
    with live.feed.reader(0, deltas=False, mark=True) as reader:
        assert kinds(await everything(reader)) == [SessionCreated, StateChanged]
        await live.recorder.record(UserMessage(content="hi"))
        live.say(said("hello", 0))
        await live.recorder.record(AssistantMessage(round=1, content="hello"))
        assert kinds(await everything(reader)) == [UserMessage, StateChanged, AssistantMessage]


async def test_a_reader_that_is_told_of_the_end_has_what_was_left_first(live: LiveSession) -> None:
    with live.feed.reader(0) as reader:
        await turns(live, 1)
        reader.end()
        assert len(await reader.batch()) == 3
        assert await reader.batch() == []


async def test_a_reader_waits_until_there_is_something(live: LiveSession) -> None:
    with live.feed.reader(1) as reader:
        waits = True

        async def read() -> None:
            nonlocal waits
            await reader.batch()
            waits = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert waits
            await turns(live, 1)


async def test_a_reader_that_has_closed_is_pushed_nothing(live: LiveSession) -> None:
    reader = live.feed.reader(0)
    await everything(reader)
    reader.close()
    live.say(state("idle"))
    assert await everything(reader) == []
