"""Tests the subscriptions of one session: order, no duplicates, and the position of live events."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes.live_session import create_session
from tests.fakes.memory_log import MemoryLog
from tests.runtime.model_based.controllable_store import ControllableStore
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
from walrusd.ports import TextChunk, ThinkingChunk
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.sessions.live_session import LiveSession, SessionDependencies
from walrusd.runtime.sessions.load_session import load_session
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.runtime.streams.fanout import LIVE_BUFFER, PAGE_ROWS, WINDOW_BYTES, WINDOW_EVENTS, Subscription
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.runtime.streams.items import LoggedEvent, StreamItem
from walrusd.runtime.turns.drafts import ReplyBuffer


def raise_bug(bug: BaseException) -> None:
    raise AssertionError from bug


async def new_session() -> LiveSession:
    log = MemoryLog()
    shared = SessionDependencies(
        log=log,
        clock=lambda: 1.0,
        hook=ComposedHook(),
        on_state_mismatch=raise_bug,
        global_stream=GlobalStream(log, lambda: 1.0),
    )
    return await create_session(SessionCache(shared, 600))


@pytest.fixture
async def live() -> LiveSession:
    return await new_session()


async def record_turns(live: LiveSession, count: int, text: str = "hi") -> None:
    for _ in range(count):
        await live.recorder.record(UserMessage(content=text))
        await live.recorder.record(Done(stop_reason="no_action"))


async def read_available(reader: Subscription, limit: int = PAGE_ROWS) -> list[AnyEvent]:
    """Returns all events that are available now.

    Asserts that no logged event is missing or delivered twice.
    """
    seq, events = reader.cursor, []
    while items := await read_batch_now(reader, limit):
        for item in items:
            seq += isinstance(item, LoggedEvent)
            assert item.session_seq == seq
            events.append(item.event)
    return events


async def read_batch_now(reader: Subscription, limit: int) -> list[StreamItem]:
    """Returns what `next_batch` delivers without waiting for new events."""
    items: list[StreamItem] = []

    async def read() -> None:
        items.extend(await reader.next_batch(limit))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(items) <= max(limit, 3), "the state and the text so far come with the last event, above the limit"
    return items


def text_delta(text: str, at: int) -> TextDelta:
    return TextDelta(ts=1.0, session=1, turn=1, text=text, round=1, at=at)


def state_changed(state: State, turn: int | None = 1) -> StateChanged:
    return StateChanged(ts=1.0, session=1, turn=turn, state=state)


def event_types(events: list[AnyEvent]) -> list[type[AnyEvent]]:
    return [type(event) for event in events]


@pytest.mark.parametrize("limit", [1, 100, PAGE_ROWS])
async def test_events_that_the_window_no_longer_holds_come_from_the_store(live: LiveSession, limit: int) -> None:
    await record_turns(live, WINDOW_EVENTS)
    with live.stream.subscribe(0) as reader:
        assert (
            event_types(await read_available(reader, limit)) == [SessionCreated] + [UserMessage, Done] * WINDOW_EVENTS
        )


async def test_events_too_large_for_the_window_come_from_the_store(live: LiveSession) -> None:
    await record_turns(live, 4, "x" * (WINDOW_BYTES // 3))
    with live.stream.subscribe(0) as reader:
        assert event_types(await read_available(reader)) == [SessionCreated] + [UserMessage, Done] * 4


@pytest.mark.parametrize("limit", [1, 2, PAGE_ROWS])
async def test_live_events_keep_their_place_among_logged_events_from_the_store(live: LiveSession, limit: int) -> None:
    with live.stream.subscribe(1, announce_caught_up=True) as reader:
        assert event_types(await read_available(reader)) == [StateChanged]
        for turn in range(1, 5):
            await live.recorder.record(UserMessage(content="x" * (WINDOW_BYTES // 2)))
            live.publish_live(text_delta("one", turn))
            await live.recorder.record(AssistantMessage(round=1, content="x" * (WINDOW_BYTES // 2)))
            live.publish_live(text_delta("two", turn))
            await live.recorder.record(Done(stop_reason="text_response"))
        events = await read_available(reader, limit)
        turn_types = [UserMessage, StateChanged, TextDelta, AssistantMessage, TextDelta, Done, StateChanged]
        assert event_types(events) == turn_types * 4


async def test_a_row_that_is_durable_and_not_yet_published_is_not_delivered(live: LiveSession) -> None:
    log = ControllableStore(live.deps.log)
    reloaded = await load_session(live.id, replace(live.deps, log=log))
    log.hold("after")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reloaded.recorder.record, UserMessage(content="hi"))
        await trio.testing.wait_all_tasks_blocked()
        rows = len(await live.deps.log.events(live.id, 0, PAGE_ROWS))
        log.held_at = None
        with reloaded.stream.subscribe(0, announce_caught_up=True) as reader:
            early = await read_available(reader)
            log.release()
            assert (rows, early) == (
                2,
                [SessionCreated(ts=1.0, session=1, agent="walrus"), state_changed("idle", None)],
            )
            assert event_types(await read_available(reader)) == [UserMessage, StateChanged]


async def test_a_reader_begins_after_the_seq_that_it_names(live: LiveSession) -> None:
    await record_turns(live, 2)
    with live.stream.subscribe(3) as reader:
        assert event_types(await read_available(reader)) == [UserMessage, Done]
    with live.stream.subscribe(5) as reader:
        assert await read_available(reader) == []


@pytest.mark.parametrize("later", [0, WINDOW_EVENTS])
async def test_live_events_keep_their_place_between_logged_events(live: LiveSession, later: int) -> None:
    with live.stream.subscribe(0) as reader:
        await read_available(reader)
        await live.recorder.record(UserMessage(content="hi"))
        live.publish_live(text_delta("he", 0))
        live.publish_live(text_delta("llo", 2))
        await live.recorder.record(AssistantMessage(round=1, content="hello"))
        await live.recorder.record(Done(stop_reason="text_response"))
        await record_turns(live, later)
        assert event_types(await read_available(reader))[:8] == [
            UserMessage,
            StateChanged,
            TextDelta,
            TextDelta,
            AssistantMessage,
            Done,
            StateChanged,
            *([UserMessage] if later else []),
        ]


async def test_live_events_beyond_the_buffer_of_a_slow_reader_are_dropped_and_counted_once(live: LiveSession) -> None:
    with live.stream.subscribe(0) as slow, live.stream.subscribe(0) as quick:
        await read_available(slow)
        await read_available(quick)
        await live.recorder.record(UserMessage(content="hi"))
        received: list[AnyEvent] = []
        for at in range(LIVE_BUFFER + 10):
            live.publish_live(text_delta("x", at))
            received += [item.event for item in await quick.next_batch()]
        await live.recorder.record(Done(stop_reason="error"))
        events = await read_available(slow)
        assert events[1] == state_changed("processing")
        assert events[2 : LIVE_BUFFER + 1] == [text_delta("x", at) for at in range(LIVE_BUFFER - 1)]
        assert event_types(events[LIVE_BUFFER + 1 :]) == [Done, Lagged]
        assert events[-1] == Lagged(ts=1.0, session=1, dropped=12)
        live.publish_live(state_changed("idle"))
        assert await read_available(slow) == [state_changed("idle")]
        assert received[2:] == [text_delta("x", at) for at in range(LIVE_BUFFER + 10)]


async def test_a_reader_that_misses_live_events_misses_no_logged_event(live: LiveSession) -> None:
    with live.stream.subscribe(0) as slow:
        await read_available(slow)
        for turn in range(1, WINDOW_EVENTS):
            await live.recorder.record(UserMessage(content="hi"))
            for at in range(8):
                live.publish_live(TextDelta(ts=1.0, session=1, turn=turn, text="x", round=1, at=at))
            await live.recorder.record(Done(stop_reason="no_action"))
        logged = [event for event in await read_available(slow, 7) if isinstance(event, UserMessage | Done)]
        assert event_types([*logged]) == [UserMessage, Done] * (WINDOW_EVENTS - 1)


@given(st.lists(st.tuples(st.sampled_from([TextChunk, ThinkingChunk]), st.text(min_size=1, max_size=3))), st.data())
def test_a_late_subscriber_gets_the_text_so_far_and_the_rest_without_gap_or_overlap(
    chunks: list[tuple[type[TextChunk | ThinkingChunk], str]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(chunks)))

    async def scenario() -> None:
        live = await new_session()
        await live.recorder.record(UserMessage(content="hi"))
        live.reply_buffer = buffer = ReplyBuffer(1, 1, "fake")

        def publish(chunk: TextChunk | ThinkingChunk) -> None:
            kind = TextDelta if isinstance(chunk, TextChunk) else ThinkingDelta
            live.publish_live(kind(ts=1.0, session=1, turn=1, text=chunk.text, round=1, at=buffer.add(chunk)))

        for kind, text in chunks[:cut]:
            publish(kind(text))
        with live.stream.subscribe(1, announce_caught_up=True) as reader:
            caught_up = await read_available(reader)
            for kind, text in chunks[cut:]:
                publish(kind(text))
            rest = await read_available(reader)
        assert event_types(caught_up[:2]) == [UserMessage, StateChanged]
        for event in (TextDelta, ThinkingDelta):
            assert sum(isinstance(each, event) for each in caught_up) <= 1
            deltas = [each for each in [*caught_up, *rest] if isinstance(each, event)]
            draft = buffer.to_draft()
            assert "".join(each.text for each in deltas) == (draft.text if event is TextDelta else draft.thinking)
            assert [each.at for each in deltas] == [
                sum(len(earlier.text) for earlier in deltas[:n]) for n in range(len(deltas))
            ]

    trio.run(scenario)


async def test_a_subscriber_without_deltas_gets_logged_events_states_and_queued_messages(live: LiveSession) -> None:
    with live.stream.subscribe(0, deltas=False, announce_caught_up=True) as reader:
        assert event_types(await read_available(reader)) == [SessionCreated, StateChanged]
        await live.recorder.record(UserMessage(content="hi"))
        live.publish_live(text_delta("hello", 0))
        await live.recorder.record(AssistantMessage(round=1, content="hello"))
        assert event_types(await read_available(reader)) == [UserMessage, StateChanged, AssistantMessage]


async def test_a_subscription_that_ends_delivers_its_pending_events_first(live: LiveSession) -> None:
    with live.stream.subscribe(0) as reader:
        await record_turns(live, 1)
        reader.end()
        assert len(await reader.next_batch()) == 3
        assert await reader.next_batch() == []


async def test_a_reader_waits_until_there_is_an_event(live: LiveSession) -> None:
    with live.stream.subscribe(1) as reader:
        waits = True

        async def read() -> None:
            nonlocal waits
            await reader.next_batch()
            waits = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert waits
            await record_turns(live, 1)


async def test_a_closed_reader_gets_no_events(live: LiveSession) -> None:
    reader = live.stream.subscribe(0)
    await read_available(reader)
    reader.close()
    live.publish_live(state_changed("idle"))
    assert await read_available(reader) == []
