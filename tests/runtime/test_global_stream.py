"""Tests the global stream: even a slow subscriber gets each matching logged event exactly once."""

import json
import random
import tracemalloc
from collections.abc import Callable
from io import BytesIO

import pytest
import trio
import trio.testing

from tests.fakes.export_documents import SessionLogBuilder, build_document, encode_document, make_importer
from tests.fakes.live_session import live_session
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import FakeModel
from tests.fakes.stores import LogDisk, disk
from walrus_protocol.events import (
    AssistantMessage,
    ConfigReloaded,
    Done,
    SessionsExpired,
    TextDelta,
    Tick,
    UserMessage,
    encode,
    insert_position,
)
from walrusd.agent.agent import Agent
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.streams.batched_wakeup import BATCH_SIZE
from walrusd.runtime.streams.fanout import LIVE_BUFFER, Subscription
from walrusd.runtime.streams.global_stream import WINDOW_BYTES, WINDOW_EVENTS, GlobalStream
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, StreamItem
from walrusd.store.contract import Log, StreamFilter
from walrusd.store.expiry import ExpireSession

__all__ = ["disk"]

SESSIONS = 16
TURNS = 90
"""Turns per session, of three events each: with the daemon events more than the window holds."""
AGENTS = ("ada", "bob", "eve")


async def all_wires(log: Log) -> list[bytes]:
    """Returns all rows of all sessions in wire form, read directly from the store."""
    last, since, wires = log.last_offset(), 0, list[bytes]()
    while since < last:
        page = await log.stream_page(StreamFilter(), since, last, 1000)
        wires += [insert_position(row.body, row.seq or None, row.offset) for row in page.rows]
        since = page.upto
    return wires


class RandomSubscriber:
    """A subscriber with a random filter, offset, batch size and delay between batches."""

    def __init__(self, random_source: random.Random, sessions: list[int]) -> None:
        self._random = random_source
        self.wanted = StreamFilter(
            sessions=random_source.choice([None, None, frozenset(random_source.sample(sessions, 3))]),
            agents=random_source.choice([None, None, frozenset(random_source.sample(AGENTS, 2))]),
            types=random_source.choice([None, None, frozenset({"done", "tick", "text_delta"})]),
            include_deltas=random_source.random() < 0.5,
        )
        self.since = 0
        self.logged_wires: list[bytes] = []
        self.delta_count = 0
        self._latest: dict[int | None, dict[str, object]] = {}

    async def run(self, stream: GlobalStream, subscriptions: list[Subscription]) -> None:
        rng = self._random
        self.since = rng.choice([0, rng.randint(0, stream.last_offset), stream.last_offset])
        with stream.subscribe(self.since, self.wanted, announce_caught_up=True) as reader:
            subscriptions.append(reader)
            while items := await reader.next_batch(rng.choice([1, 7, 512])):
                for item in items:
                    self.receive(item)
                for _ in range(rng.choice([0, 0, 3, 60])):
                    await trio.lowlevel.checkpoint()

    def receive(self, item: StreamItem) -> None:
        """Records a logged event. A text delta must come after the start of its turn and before its message."""
        event = json.loads(item.wire)
        if isinstance(item, LoggedEvent):
            self.logged_wires.append(item.wire)
            self._latest[event["session"]] = event
        elif event["type"] == "text_delta":
            self.delta_count += 1
            latest = self._latest.get(event["session"], {})
            if self.wanted.types is None and latest:
                assert (latest["type"], latest["turn"]) == ("user_message", event["turn"])

    def expected_wires(self, wires: list[bytes], agents: dict[int, str]) -> list[bytes]:
        """Returns the wires that match the filter, by an implementation independent of the product's."""
        matching = []
        for wire in wires:
            event = json.loads(wire)
            agent = agents.get(event["session"]) or event.get("agent")
            wanted = self.wanted
            if (
                event["offset"] > self.since
                and (wanted.sessions is None or event["session"] in wanted.sessions)
                and (wanted.agents is None or agent in wanted.agents)
                and (wanted.types is None or event["type"] in wanted.types)
            ):
                matching.append(wire)
        return matching


async def record_turns(live: LiveSession) -> None:
    for turn in range(1, TURNS + 1):
        await live.recorder.record(UserMessage(content="hi"))
        live.publish_live(TextDelta(ts=1.0, session=live.id, turn=turn, text="hello", round=1, at=0))
        await live.recorder.record(AssistantMessage(round=1, content="hello"))
        await live.recorder.record(Done(stop_reason="text_response"))


async def record_ticks(daemon_events: DaemonRecorder) -> None:
    for number in range(TURNS):
        tick = Tick(tick=number, schedule="s", agent=AGENTS[number % 3], slot=1.0, outcome="ran")
        await daemon_events.record(tick if number % 4 else ConfigReloaded(changed=("a",)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_the_switch_from_history_to_live_has_no_gap_and_no_duplicate_under_load(disk: LogDisk, seed: int) -> None:
    rng = random.Random(seed)
    log = await disk.open()
    async with Runtime(FakeModel(), log=log) as runtime:
        for name in AGENTS:
            runtime.add_agent(Agent(name=name, model="echo"))
        live_sessions = [live_session(runtime, await runtime.create_session(AGENTS[n % 3])) for n in range(SESSIONS)]
        agents = {live.id: live.session.state.agent for live in live_sessions}
        daemon_recorder = await DaemonRecorder.open(log, runtime.global_stream.publish_daemon)
        first, *subscribers = [RandomSubscriber(rng, [*agents]) for _ in range(40)]
        first.wanted = StreamFilter()
        subscriptions: list[Subscription] = []
        async with trio.open_nursery() as subscriber_nursery:
            subscriber_nursery.start_soon(first.run, runtime.global_stream, subscriptions)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as recorder_nursery:
                for live in live_sessions:
                    recorder_nursery.start_soon(record_turns, live)
                recorder_nursery.start_soon(record_ticks, daemon_recorder)
                for subscriber in subscribers:
                    subscriber_nursery.start_soon(subscriber.run, runtime.global_stream, subscriptions)
                    for _ in range(rng.randint(0, 60)):
                        await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            for reader in subscriptions:
                reader.end()
        wires = await all_wires(log)
    await log.aclose()
    assert len(wires) > WINDOW_EVENTS
    assert len(subscriptions) == len(subscribers) + 1
    for subscriber in (first, *subscribers):
        assert subscriber.logged_wires == subscriber.expected_wires(wires, agents)
    assert first.delta_count >= LIVE_BUFFER // 4, "one in three of the buffered live events is a delta"


async def test_a_subscriber_with_an_offset_gets_the_events_imported_after_it() -> None:
    log = MemoryLog()
    chat = SessionLogBuilder(1)
    chat.add_turn("imported")
    async with Runtime(FakeModel(), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus", model="echo"))
        with runtime.global_stream.subscribe(None, StreamFilter()):
            await runtime.create_session("walrus")
            await make_importer(runtime).import_document(BytesIO(encode_document(build_document(chat)).encode()))
            await runtime.create_session("walrus")
            with runtime.global_stream.subscribe(1, StreamFilter()) as reader:
                assert await available_offsets(reader) == [2, 3, 4, 5, 6, 7]


async def test_events_of_a_deleted_session_are_not_delivered() -> None:
    async with Runtime(FakeModel()) as runtime:
        runtime.add_agent(Agent(name="walrus", model="echo"))
        with runtime.global_stream.subscribe(None, StreamFilter()):
            deleted, _ = [await runtime.create_session("walrus") for _ in range(2)]
            await runtime.close_session(deleted)
            await runtime.daemon_recorder.record(
                SessionsExpired(sessions=(deleted,)), mutations=[ExpireSession(deleted)]
            )
            with runtime.global_stream.subscribe(0, StreamFilter()) as reader:
                assert await available_offsets(reader) == [2, 4]


def publish_message(
    stream: GlobalStream, offset: int, *, agent: str = "ada", session: int = 1, text: str = "hi"
) -> None:
    event = UserMessage(ts=1.0, session=session, turn=1, content=text)
    stream.publish(LoggedEvent(seq=offset, offset=offset, body=encode(event), decoded=event), agent)


async def available_offsets(reader: Subscription) -> list[int]:
    """Returns the offsets of the events that are available now."""
    reader.end()
    found = []
    while items := await reader.next_batch():
        found += [item.offset for item in items if isinstance(item, LoggedEvent)]
    return found


@pytest.fixture
def stream() -> GlobalStream:
    return GlobalStream(MemoryLog(), lambda: 1.0)


async def test_offsets_may_have_gaps(stream: GlobalStream) -> None:
    with stream.subscribe(None, StreamFilter()) as reader:
        for offset in (3, 4, 9, 20, 21):
            publish_message(stream, offset)
        assert await available_offsets(reader) == [3, 4, 9, 20, 21]


async def test_live_events_keep_their_place_among_logged_events_from_the_store(disk: LogDisk) -> None:
    log = await disk.open()
    async with Runtime(FakeModel(), log=log) as runtime:
        for name in AGENTS:
            runtime.add_agent(Agent(name=name, model="echo"))
        ada, eve = [live_session(runtime, await runtime.create_session(name)) for name in ("ada", "eve")]
        with runtime.global_stream.subscribe(
            None, StreamFilter(agents=frozenset({"ada"})), announce_caught_up=True
        ) as reader:
            await reader.next_batch()
            for number in range(4):
                await ada.recorder.record(UserMessage(content="hi"))
                ada.publish_live(TextDelta(ts=1.0, session=ada.id, turn=number + 1, text="hi", round=1, at=0))
                await ada.recorder.record(Done(stop_reason="no_action"))
            await eve.recorder.record(UserMessage(content="x" * WINDOW_BYTES))  # fills the whole window
            reader.end()
            events = []
            while items := await reader.next_batch(5):
                events += [json.loads(item.wire) for item in items]
        turn_types = ["user_message", "state_changed", "text_delta", "done", "state_changed"]
        assert [event["type"] for event in events] == turn_types * 4
        assert {event["session"] for event in events} == {ada.id}
    await log.aclose()


async def test_events_outside_its_filter_do_not_wake_a_reader(stream: GlobalStream) -> None:
    async def expect_last(reader: Subscription) -> None:
        assert [item.session_seq for item in await reader.next_batch()] == [3 * WINDOW_EVENTS]

    filters = [
        StreamFilter(sessions=frozenset({2})),
        StreamFilter(agents=frozenset({"eve"})),
        StreamFilter(types=frozenset({"done"})),
        StreamFilter(sessions=frozenset({2}), types=frozenset({"done"})),
    ]
    readers = [stream.subscribe(None, wanted) for wanted in filters]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(expect_last, reader)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_runnable
        for offset in range(1, 3 * WINDOW_EVENTS):
            publish_message(stream, offset)
        assert trio.lowlevel.current_statistics().tasks_runnable == before
        done = Done(ts=1.0, session=2, turn=1, stop_reason="text_response")
        last = LoggedEvent(seq=3 * WINDOW_EVENTS, offset=3 * WINDOW_EVENTS, body=encode(done), decoded=done)
        stream.publish(last, "eve")  # read from the window; the store has no rows
    assert {reader.cursor for reader in readers} == {3 * WINDOW_EVENTS}


@pytest.mark.slow
@pytest.mark.parametrize("readers", [1, 500])
def test_subscribers_that_never_read_hold_no_events(stream: GlobalStream, readers: int) -> None:
    def fill_window_twice() -> None:
        for _ in range(2 * WINDOW_EVENTS):
            publish_message(stream, stream.last_offset + 1, text="x" * 100)

    subscriptions = [stream.subscribe(None, StreamFilter()) for _ in range(readers)]
    fill_window_twice()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    fill_window_twice()
    fill_window_twice()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 5 * 1024 * 1024, "at most one window, replaced several times"
    for reader in subscriptions:
        reader.close()


async def test_unread_live_events_are_bounded_and_the_dropped_ones_are_counted(stream: GlobalStream) -> None:
    with stream.subscribe(None, StreamFilter()) as reader:
        reader.end()
        await reader.next_batch()
        for number in range(LIVE_BUFFER + 5):
            event = TextDelta(ts=1.0, session=1, turn=1, text="x", round=1, at=number)
            stream.publish_live(LiveEvent(0, event), "ada")
        items = [item for _ in range(3) for item in await reader.next_batch()]
        assert len(items) == LIVE_BUFFER + 1
        assert json.loads(items[-1].wire) == {
            "type": "lagged",
            "ts": 1.0,
            "session": None,
            "turn": None,
            "live": True,
            "dropped": 5,
        }


def test_without_subscribers_no_events_are_held(stream: GlobalStream) -> None:
    with stream.subscribe(None, StreamFilter()):
        publish_message(stream, 1)
    tracemalloc.start()
    for offset in range(2, WINDOW_EVENTS):
        publish_message(stream, offset, text="x" * 1000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000


async def test_many_subscribers_are_woken_in_batches_with_other_tasks_between_them(stream: GlobalStream) -> None:
    woken = 0

    async def wait(reader: Subscription) -> None:
        nonlocal woken
        await reader.next_batch()
        woken += 1

    async def largest_batch(count: Callable[[], int]) -> int:
        largest = previous = 0
        while previous < 100:
            await trio.lowlevel.checkpoint()
            largest, previous = max(largest, count() - previous), count()
        return largest

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.batched_wakeup.run)
        for _ in range(100):
            nursery.start_soon(wait, stream.subscribe(None, StreamFilter()))
        await trio.testing.wait_all_tasks_blocked()
        publish_message(stream, 1)
        assert await largest_batch(lambda: woken) <= 2 * BATCH_SIZE
        nursery.cancel_scope.cancel()
