"""The daemon-wide stream: whoever joins whenever, and reads however slowly, has every fact that it wants, once."""

import json
import random
import tracemalloc
from collections.abc import Callable
from io import BytesIO

import pytest
import trio
import trio.testing

from tests.fakes.export_documents import SessionLogBuilder, build_document, encode_document, make_importer
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
from walrusd.providers.echo import Echo
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.streams.batched_wakeup import BATCH_SIZE
from walrusd.runtime.streams.fanout import LIVE_BUFFER, Subscription
from walrusd.runtime.streams.global_stream import WINDOW_BYTES, WINDOW_EVENTS, GlobalStream
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, StreamItem
from walrusd.store.contract import Log, StreamFilter
from walrusd.store.memory import MemoryLog

__all__ = ["disk"]

SESSIONS = 16
TURNS = 90
"""Of three facts each: with those of the daemon more than the window holds."""
AGENTS = ("ada", "bob", "eve")


async def all_wires(log: Log) -> list[bytes]:
    """All rows of all sessions as they are sent, straight from the store."""
    last, since, wires = log.last_offset(), 0, list[bytes]()
    while since < last:
        page = await log.stream_page(StreamFilter(), since, last, 1000)
        wires += [insert_position(row.body, row.seq or None, row.offset) for row in page.rows]
        since = page.upto
    return wires


class RandomSubscriber:
    """Joins when it is told to, reads in pieces, and dawdles between them."""

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
        chance = self._random
        self.since = chance.choice([0, chance.randint(0, stream.last_offset), stream.last_offset])
        with stream.subscribe(self.since, self.wanted, announce_caught_up=True) as reader:
            subscriptions.append(reader)
            while items := await reader.next_batch(chance.choice([1, 7, 512])):
                for item in items:
                    self.receive(item)
                for _ in range(chance.choice([0, 0, 3, 60])):
                    await trio.lowlevel.checkpoint()

    def receive(self, item: StreamItem) -> None:
        """A fact is kept; a piece of text has to stand behind its turn's beginning and before what it is a part of."""
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
        """What is wanted of all that there is, said once more and otherwise than by the code."""
        kept = []
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
                kept.append(wire)
        return kept


async def record_turns(live: LiveSession) -> None:
    for turn in range(1, TURNS + 1):
        await live.recorder.record(UserMessage(content="hi"))
        live.publish_live(TextDelta(ts=1.0, session=live.id, turn=turn, text="hello", round=1, at=0))
        await live.recorder.record(AssistantMessage(round=1, content="hello"))
        await live.recorder.record(Done(stop_reason="text_response"))


async def record_ticks(daemon_events: DaemonRecorder) -> None:
    for number in range(TURNS):
        fact = Tick(tick=number, schedule="s", agent=AGENTS[number % 3], slot=1.0, outcome="ran")
        await daemon_events.record(fact if number % 4 else ConfigReloaded(changed=("a",)))


@pytest.mark.parametrize("seed", range(2))
async def test_from_history_to_live_there_is_neither_gap_nor_repeat_under_load(disk: LogDisk, seed: int) -> None:
    chance = random.Random(seed)
    log = await disk.open()
    async with Runtime(Echo(), log=log) as runtime:
        for name in AGENTS:
            runtime.add_agent(Agent(name=name, model="echo"))
        lives = [await runtime.live_session(await runtime.create_session(AGENTS[n % 3])) for n in range(SESSIONS)]
        agents = {live.id: live.session.state.agent for live in lives}
        facts = await DaemonRecorder.open(log, runtime.global_stream.publish_daemon)
        first, *watchers = [RandomSubscriber(chance, [*agents]) for _ in range(40)]
        first.wanted = StreamFilter()
        ending: list[Subscription] = []
        async with trio.open_nursery() as watching:
            watching.start_soon(first.run, runtime.global_stream, ending)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as recording:
                for live in lives:
                    recording.start_soon(record_turns, live)
                recording.start_soon(record_ticks, facts)
                for watcher in watchers:
                    watching.start_soon(watcher.run, runtime.global_stream, ending)
                    for _ in range(chance.randint(0, 60)):
                        await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            for reader in ending:
                reader.end()
        wires = await all_wires(log)
    await log.aclose()
    assert len(wires) > WINDOW_EVENTS
    assert len(ending) == len(watchers) + 1
    for watcher in (first, *watchers):
        assert watcher.logged_wires == watcher.expected_wires(wires, agents)
    assert first.delta_count >= LIVE_BUFFER // 4, "of live events that nobody has time to read, one in three is a delta"


async def test_a_subscriber_with_an_offset_finds_what_was_imported_after_it() -> None:
    log = MemoryLog()
    chat = SessionLogBuilder(1)
    chat.add_turn("brought along")
    async with Runtime(Echo(), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus", model="echo"))
        with runtime.global_stream.subscribe(None, StreamFilter()):
            await runtime.create_session("walrus")
            await make_importer(runtime).import_document(BytesIO(encode_document(build_document(chat)).encode()))
            await runtime.create_session("walrus")
            with runtime.global_stream.subscribe(1, StreamFilter()) as reader:
                assert await available_offsets(reader) == [2, 3, 4, 5, 6, 7]


async def test_events_of_a_deleted_session_are_not_delivered() -> None:
    async with Runtime(Echo()) as runtime:
        runtime.add_agent(Agent(name="walrus", model="echo"))
        with runtime.global_stream.subscribe(None, StreamFilter()):
            gone, _ = [await runtime.create_session("walrus") for _ in range(2)]
            await runtime.close_session(gone)
            await runtime.daemon_recorder.record(SessionsExpired(sessions=(gone,)), expired_sessions=[gone])
            with runtime.global_stream.subscribe(0, StreamFilter()) as reader:
                assert await available_offsets(reader) == [2, 4]


def publish_message(
    stream: GlobalStream, offset: int, *, agent: str = "ada", session: int = 1, text: str = "hi"
) -> None:
    event = UserMessage(ts=1.0, session=session, turn=1, content=text)
    stream.publish(LoggedEvent(seq=offset, offset=offset, body=encode(event), event=event), agent)


async def available_offsets(reader: Subscription) -> list[int]:
    """What is there for it now."""
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
    async with Runtime(Echo(), log=log) as runtime:
        for name in AGENTS:
            runtime.add_agent(Agent(name=name, model="echo"))
        ada, eve = [await runtime.live_session(await runtime.create_session(name)) for name in ("ada", "eve")]
        with runtime.global_stream.subscribe(
            None, StreamFilter(agents=frozenset({"ada"})), announce_caught_up=True
        ) as reader:
            await reader.next_batch()
            for number in range(4):
                await ada.recorder.record(UserMessage(content="hi"))
                ada.publish_live(TextDelta(ts=1.0, session=ada.id, turn=number + 1, text="hi", round=1, at=0))
                await ada.recorder.record(Done(stop_reason="no_action"))
            await eve.recorder.record(UserMessage(content="x" * WINDOW_BYTES))  # takes all the room in the window
            reader.end()
            told = []
            while items := await reader.next_batch(5):
                told += [json.loads(item.wire) for item in items]
        a_turn = ["user_message", "state_changed", "text_delta", "done", "state_changed"]
        assert [event["type"] for event in told] == a_turn * 4
        assert {event["session"] for event in told} == {ada.id}
    await log.aclose()


async def test_what_does_not_concern_a_reader_does_not_wake_it(stream: GlobalStream) -> None:
    async def one(reader: Subscription) -> None:
        assert [item.session_seq for item in await reader.next_batch()] == [3 * WINDOW_EVENTS]

    choices = [
        StreamFilter(sessions=frozenset({2})),
        StreamFilter(agents=frozenset({"eve"})),
        StreamFilter(types=frozenset({"done"})),
        StreamFilter(sessions=frozenset({2}), types=frozenset({"done"})),
    ]
    readers = [stream.subscribe(None, wanted) for wanted in choices]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(one, reader)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_runnable
        for offset in range(1, 3 * WINDOW_EVENTS):
            publish_message(stream, offset)
        assert trio.lowlevel.current_statistics().tasks_runnable == before
        done = Done(ts=1.0, session=2, turn=1, stop_reason="text_response")
        fact = LoggedEvent(seq=3 * WINDOW_EVENTS, offset=3 * WINDOW_EVENTS, body=encode(done), event=done)
        stream.publish(fact, "eve")  # from the window: the store, which knows of nothing, is not asked
    assert {reader.cursor for reader in readers} == {3 * WINDOW_EVENTS}


@pytest.mark.parametrize("readers", [1, 500])
def test_a_reader_that_never_reads_holds_no_events(stream: GlobalStream, readers: int) -> None:
    def more() -> None:
        for _ in range(2 * WINDOW_EVENTS):
            publish_message(stream, stream.last_offset + 1, text="x" * 100)

    never = [stream.subscribe(None, StreamFilter()) for _ in range(readers)]
    more()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    more()
    more()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 5 * 1024 * 1024, "one window, which was replaced twice"
    for reader in never:
        reader.close()


async def test_live_events_that_nobody_reads_are_bounded_and_counted(stream: GlobalStream) -> None:
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


def test_without_readers_nothing_is_held(stream: GlobalStream) -> None:
    with stream.subscribe(None, StreamFilter()):
        publish_message(stream, 1)
    tracemalloc.start()
    for offset in range(2, WINDOW_EVENTS):
        publish_message(stream, offset, text="x" * 1000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000


async def test_many_subscribers_are_woken_in_batches_between_which_others_run(stream: GlobalStream) -> None:
    woken = 0

    async def wait(reader: Subscription) -> None:
        nonlocal woken
        await reader.next_batch()
        woken += 1

    async def most_at_once(count: Callable[[], int]) -> int:
        most = seen = 0
        while seen < 100:
            await trio.lowlevel.checkpoint()
            most, seen = max(most, count() - seen), count()
        return most

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.batched_wakeup.run)
        for _ in range(100):
            nursery.start_soon(wait, stream.subscribe(None, StreamFilter()))
        await trio.testing.wait_all_tasks_blocked()
        publish_message(stream, 1)
        assert await most_at_once(lambda: woken) <= 2 * BATCH_SIZE
        nursery.cancel_scope.cancel()
