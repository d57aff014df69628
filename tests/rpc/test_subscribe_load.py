"""Tests of many global subscribers, and of one that never reads: no event is lost, memory is bounded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.fakes.home import ECHO, MAX_WAIT_S, Home, WalrusdProcess
from tests.rpc.raw_client import open_raw_client, request
from walrus_protocol.async_client import AsyncClient, AsyncEventStream, connect
from walrus_protocol.events import AssistantMessage, Done, SessionCreated, TextDelta, UserMessage
from walrus_protocol.methods import CloseParams, CreateParams, SendParams, TurnResult
from walrus_protocol.methods.subscribe import SubscribeParams, SubscribeResult

MIB = 1024 * 1024
TURNS = 200
LONG_TEXT = " ".join(f"word{number}" for number in range(40))


@pytest.fixture
def own_daemon(tmp_path: Path) -> Iterator[WalrusdProcess]:
    toml = ECHO.replace("[daemon]", f"[daemon]\nmax_running_turns = {TURNS}")
    with Home(tmp_path / "home", toml).walrusd() as daemon:
        yield daemon


class EventCollector:
    """Collects the types of logged events and the streamed text of each session."""

    def __init__(self) -> None:
        self.logged_types: dict[int | None, list[type]] = {}
        self.texts: dict[int | None, str] = {}

    async def collect(self, events: AsyncEventStream[TurnResult] | AsyncEventStream[SubscribeResult]) -> None:
        async for event in events:
            if isinstance(event, TextDelta):
                assert event.at == len(self.texts.get(event.session, ""))
                self.texts[event.session] = self.texts.get(event.session, "") + event.text
            elif isinstance(event.offset, int):
                self.logged_types.setdefault(event.session, []).append(type(event))


async def test_no_event_of_two_hundred_concurrent_streaming_turns_is_lost(own_daemon: WalrusdProcess) -> None:
    subscribed, streams = EventCollector(), EventCollector()

    async def stream(client: AsyncClient, session: int) -> None:
        async with client.stream(SendParams(session=session, content=LONG_TEXT)) as turn:
            await streams.collect(turn)
        assert turn.result.text == LONG_TEXT
        await client.close(CloseParams(session=session))

    with trio.fail_after(MAX_WAIT_S):
        async with connect(own_daemon.socket) as client, trio.open_nursery() as nursery:
            sessions = [(await client.create(CreateParams(agent="walrus"))).session for _ in range(TURNS)]
            async with client.subscribe(SubscribeParams(since=0, sessions=tuple(sessions))) as events:
                for session in sessions:
                    nursery.start_soon(stream, client, session)
                await subscribed.collect(events)
            assert events.result.reason == "closed"
    turn = [UserMessage, AssistantMessage, Done]
    assert streams.logged_types == dict.fromkeys(sessions, turn)
    assert [types[:4] for types in subscribed.logged_types.values()] == [[SessionCreated, *turn]] * TURNS
    assert streams.texts == subscribed.texts == dict.fromkeys(sessions, LONG_TEXT)


async def rss_after_pings(client: AsyncClient) -> int:
    for _ in range(50):
        await client.ping()
    return (await client.status()).rss_bytes


@pytest.mark.parametrize("since", [None, 0])
async def test_a_hundred_subscriptions_that_are_never_read_cost_one_outbox(
    own_daemon: WalrusdProcess, since: int | None
) -> None:
    async with connect(own_daemon.socket) as client, open_raw_client(own_daemon.socket) as not_reading:
        session = (await client.create(CreateParams(agent="walrus"))).session
        sent = SendParams(session=session, content="x" * MIB)
        for _ in range(12):
            await client.send(sent)
        before = await rss_after_pings(client)
        await not_reading.send(*(request("event.subscribe", {"since": since}, number) for number in range(100)))
        for _ in range(12):
            assert (await client.send(sent)).stop_reason == "text_response"
        assert await rss_after_pings(client) - before < 64 * MIB


async def test_four_hundred_global_subscribers_get_every_event(own_daemon: WalrusdProcess) -> None:
    """There are more subscribers than one batch wakes."""
    finished = 0

    async def subscribe(client: AsyncClient, ready: trio.Semaphore) -> None:
        nonlocal finished
        async with client.subscribe(SubscribeParams(types=("user_message", "done"))) as events:
            await anext(events)
            ready.release()
            types = [type(await anext(events)) for _ in range(20)]
        assert types == [UserMessage, Done] * 10
        finished += 1

    with trio.fail_after(MAX_WAIT_S):
        async with connect(own_daemon.socket) as client, trio.open_nursery() as nursery:
            ready = trio.Semaphore(0)
            for _ in range(400):
                nursery.start_soon(subscribe, client, ready)
            for _ in range(400):
                await ready.acquire()
            session = (await client.create(CreateParams(agent="walrus"))).session
            for _ in range(10):
                await client.send(SendParams(session=session, content="hi"))
    assert finished == 400
