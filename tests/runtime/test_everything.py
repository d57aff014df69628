"""The daemon-wide stream: whoever joins whenever, and reads however slowly, has every fact that it wants, once."""

import json
import random
import tracemalloc
from collections.abc import Callable
from io import BytesIO

import pytest
import trio
import trio.testing

from tests.fakes.documents import Chat, as_text, document
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
    spliced,
)
from walrusd.agent.agent import Agent
from walrusd.providers.echo import Echo
from walrusd.runtime.bus import LIVE_BUFFER, Fact, Item, Passing, Reader
from walrusd.runtime.crowd import AT_ONCE
from walrusd.runtime.everything import WINDOW, WINDOW_BYTES, Everything
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions import LiveSession
from walrusd.store.log import Log, Wanted
from walrusd.store.memory import MemoryLog

__all__ = ["disk"]

SESSIONS = 16
TURNS = 90
"""Of three facts each: with those of the daemon more than the window holds."""
AGENTS = ("ada", "bob", "eve")


async def whole(log: Log) -> list[bytes]:
    """All rows of all sessions as they are sent, straight from the store."""
    last, since, wires = log.last_offset(), 0, list[bytes]()
    while since < last:
        page = await log.stream(Wanted(), since, last, 1000)
        wires += [spliced(row.body, row.seq or None, row.offset) for row in page.rows]
        since = page.upto
    return wires


class Watcher:
    """Joins when it is told to, reads in pieces, and dawdles between them."""

    def __init__(self, chance: random.Random, sessions: list[int]) -> None:
        self._chance = chance
        self.wanted = Wanted(
            sessions=chance.choice([None, None, frozenset(chance.sample(sessions, 3))]),
            agents=chance.choice([None, None, frozenset(chance.sample(AGENTS, 2))]),
            types=chance.choice([None, None, frozenset({"done", "tick", "text_delta"})]),
            deltas=chance.random() < 0.5,
        )
        self.since = 0
        self.facts: list[bytes] = []
        self.deltas = 0
        self._latest: dict[int | None, dict[str, object]] = {}

    async def watch(self, everything: Everything, ending: list[Reader]) -> None:
        chance = self._chance
        self.since = chance.choice([0, chance.randint(0, everything.last_offset), everything.last_offset])
        with everything.reader(self.since, self.wanted, mark=True) as reader:
            ending.append(reader)
            while items := await reader.batch(chance.choice([1, 7, 512])):
                for item in items:
                    self.take(item)
                for _ in range(chance.choice([0, 0, 3, 60])):
                    await trio.lowlevel.checkpoint()

    def take(self, item: Item) -> None:
        """A fact is kept; a piece of text has to stand behind its turn's beginning and before what it is a part of."""
        event = json.loads(item.wire)
        if isinstance(item, Fact):
            self.facts.append(item.wire)
            self._latest[event["session"]] = event
        elif event["type"] == "text_delta":
            self.deltas += 1
            latest = self._latest.get(event["session"], {})
            if self.wanted.types is None and latest:
                assert (latest["type"], latest["turn"]) == ("user_message", event["turn"])

    def has_to_have(self, wires: list[bytes], agents: dict[int, str]) -> list[bytes]:
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


async def at_full_speed(live: LiveSession) -> None:
    for turn in range(1, TURNS + 1):
        await live.recorder.record(UserMessage(content="hi"))
        live.say(TextDelta(ts=1.0, session=live.id, turn=turn, text="hello", round=1, at=0))
        await live.recorder.record(AssistantMessage(round=1, content="hello"))
        await live.recorder.record(Done(stop_reason="text_response"))


async def ticks(facts: DaemonFacts) -> None:
    for number in range(TURNS):
        fact = Tick(tick=number, schedule="s", agent=AGENTS[number % 3], slot=1.0, outcome="ran")
        await facts.record(fact if number % 4 else ConfigReloaded(changed=("a",)))


@pytest.mark.parametrize("seed", range(2))
async def test_from_history_to_live_there_is_neither_gap_nor_repeat_under_load(disk: LogDisk, seed: int) -> None:
    chance = random.Random(seed)
    log = await disk.open()
    async with Runtime(Echo(), log=log) as runtime:
        for name in AGENTS:
            runtime.add_agent(Agent(name=name, model="echo"))
        lives = [await runtime.live(await runtime.create_session(AGENTS[n % 3])) for n in range(SESSIONS)]
        agents = {live.id: live.session.outline.agent for live in lives}
        facts = await DaemonFacts.open(log, runtime.everything.publish_daemon)
        first, *watchers = [Watcher(chance, [*agents]) for _ in range(40)]
        first.wanted = Wanted()
        ending: list[Reader] = []
        async with trio.open_nursery() as watching:
            watching.start_soon(first.watch, runtime.everything, ending)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as recording:
                for live in lives:
                    recording.start_soon(at_full_speed, live)
                recording.start_soon(ticks, facts)
                for watcher in watchers:
                    watching.start_soon(watcher.watch, runtime.everything, ending)
                    for _ in range(chance.randint(0, 60)):
                        await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            for reader in ending:
                reader.end()
        wires = await whole(log)
    await log.aclose()
    assert len(wires) > WINDOW
    assert len(ending) == len(watchers) + 1
    for watcher in (first, *watchers):
        assert watcher.facts == watcher.has_to_have(wires, agents)
    assert first.deltas >= LIVE_BUFFER // 4, "of live events that nobody has time to read, one in three is a delta"


async def test_who_remembers_an_offset_finds_what_was_imported_after_it_though_others_follow() -> None:
    log = MemoryLog()
    chat = Chat(1)
    chat.turn("brought along")
    async with Runtime(Echo(), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus", model="echo"))
        with runtime.everything.reader(None, Wanted()):
            await runtime.create_session("walrus")
            await runtime.imports.take(BytesIO(as_text(document(chat)).encode()))
            await runtime.create_session("walrus")
            with runtime.everything.reader(1, Wanted()) as reader:
                assert await offsets(reader) == [2, 3, 4, 5, 6, 7]


async def test_of_a_session_that_was_thrown_away_nobody_is_told_though_others_follow() -> None:
    async with Runtime(Echo()) as runtime:
        runtime.add_agent(Agent(name="walrus", model="echo"))
        with runtime.everything.reader(None, Wanted()):
            gone, _ = [await runtime.create_session("walrus") for _ in range(2)]
            await runtime.close_session(gone)
            await runtime.facts.record(SessionsExpired(sessions=(gone,)), expired=[gone])
            with runtime.everything.reader(0, Wanted()) as reader:
                assert await offsets(reader) == [2, 4]


def told(everything: Everything, offset: int, *, agent: str = "ada", session: int = 1, text: str = "hi") -> None:
    event = UserMessage(ts=1.0, session=session, turn=1, content=text)
    everything.publish(Fact(seq=offset, offset=offset, body=encode(event), event=event), agent)


async def offsets(reader: Reader) -> list[int]:
    """What is there for it now."""
    reader.end()
    found = []
    while items := await reader.batch():
        found += [item.offset for item in items if isinstance(item, Fact)]
    return found


@pytest.fixture
def everything() -> Everything:
    return Everything(MemoryLog(), lambda: 1.0)


async def test_offsets_may_have_gaps(everything: Everything) -> None:
    with everything.reader(None, Wanted()) as reader:
        for offset in (3, 4, 9, 20, 21):
            told(everything, offset)
        assert await offsets(reader) == [3, 4, 9, 20, 21]


async def test_live_events_have_their_places_among_facts_that_come_from_the_store(disk: LogDisk) -> None:
    log = await disk.open()
    async with Runtime(Echo(), log=log) as runtime:
        for name in AGENTS:
            runtime.add_agent(Agent(name=name, model="echo"))
        ada, eve = [await runtime.live(await runtime.create_session(name)) for name in ("ada", "eve")]
        with runtime.everything.reader(None, Wanted(agents=frozenset({"ada"})), mark=True) as reader:
            await reader.batch()
            for number in range(4):
                await ada.recorder.record(UserMessage(content="hi"))
                ada.say(TextDelta(ts=1.0, session=ada.id, turn=number + 1, text="hi", round=1, at=0))
                await ada.recorder.record(Done(stop_reason="no_action"))
            await eve.recorder.record(UserMessage(content="x" * WINDOW_BYTES))  # takes all the room in the window
            reader.end()
            told = []
            while items := await reader.batch(5):
                told += [json.loads(item.wire) for item in items]
        a_turn = ["user_message", "state_changed", "text_delta", "done", "state_changed"]
        assert [event["type"] for event in told] == a_turn * 4
        assert {event["session"] for event in told} == {ada.id}
    await log.aclose()


async def test_what_does_not_concern_a_reader_does_not_wake_it(everything: Everything) -> None:
    async def one(reader: Reader) -> None:
        assert [item.position for item in await reader.batch()] == [3 * WINDOW]

    choices = [
        Wanted(sessions=frozenset({2})),
        Wanted(agents=frozenset({"eve"})),
        Wanted(types=frozenset({"done"})),
        Wanted(sessions=frozenset({2}), types=frozenset({"done"})),
    ]
    readers = [everything.reader(None, wanted) for wanted in choices]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(one, reader)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_runnable
        for offset in range(1, 3 * WINDOW):
            told(everything, offset)
        assert trio.lowlevel.current_statistics().tasks_runnable == before
        done = Done(ts=1.0, session=2, turn=1, stop_reason="text_response")
        fact = Fact(seq=3 * WINDOW, offset=3 * WINDOW, body=encode(done), event=done)
        everything.publish(fact, "eve")  # from the window: the store, which knows of nothing, is not asked
    assert {reader.cursor for reader in readers} == {3 * WINDOW}


@pytest.mark.parametrize("readers", [1, 500])
def test_a_reader_that_never_reads_holds_no_facts(everything: Everything, readers: int) -> None:
    def more() -> None:
        for _ in range(2 * WINDOW):
            told(everything, everything.last_offset + 1, text="x" * 100)

    never = [everything.reader(None, Wanted()) for _ in range(readers)]
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


async def test_live_events_that_nobody_reads_are_bounded_and_counted(everything: Everything) -> None:
    with everything.reader(None, Wanted()) as reader:
        reader.end()
        await reader.batch()
        for number in range(LIVE_BUFFER + 5):
            event = TextDelta(ts=1.0, session=1, turn=1, text="x", round=1, at=number)
            everything.pass_on(Passing(0, event), "ada")
        items = [item for _ in range(3) for item in await reader.batch()]
        assert len(items) == LIVE_BUFFER + 1
        assert json.loads(items[-1].wire) == {
            "type": "lagged",
            "ts": 1.0,
            "session": None,
            "turn": None,
            "live": True,
            "dropped": 5,
        }


def test_without_readers_nothing_is_held(everything: Everything) -> None:
    with everything.reader(None, Wanted()):
        told(everything, 1)
    tracemalloc.start()
    for offset in range(2, WINDOW):
        told(everything, offset, text="x" * 1000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000


async def test_a_crowd_is_woken_in_parts_between_which_others_run(everything: Everything) -> None:
    woken = 0

    async def wait(reader: Reader) -> None:
        nonlocal woken
        await reader.batch()
        woken += 1

    async def most_at_once(count: Callable[[], int]) -> int:
        most = seen = 0
        while seen < 100:
            await trio.lowlevel.checkpoint()
            most, seen = max(most, count() - seen), count()
        return most

    async with trio.open_nursery() as nursery:
        nursery.start_soon(everything.crowd.keep)
        for _ in range(100):
            nursery.start_soon(wait, everything.reader(None, Wanted()))
        await trio.testing.wait_all_tasks_blocked()
        told(everything, 1)
        assert await most_at_once(lambda: woken) <= 2 * AT_ONCE
        nursery.cancel_scope.cancel()
