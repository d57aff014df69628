"""Many clients, and clients that do not behave: the others are served, and memory stays bounded."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.fakes.home import PATIENCE_S, Home, Walrusd
from tests.rpc.raw import framed, raw, request
from walrus_protocol.aclient import Client, connect
from walrus_protocol.methods import CreateParams, SendParams, SessionParams

MIB = 1024 * 1024


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Walrusd]:
    """A daemon whose memory and connections are nobody else's."""
    with Home(tmp_path / "home").walrusd() as daemon:
        yield daemon


async def rss(client: Client) -> int:
    """The daemon's memory once it has had every chance to do what it was asked."""
    for _ in range(50):
        await client.ping()
    return (await client.status()).rss_bytes


async def talked(client: Client, messages: int, size: int) -> int:
    """A session with a log of so many messages, each sent back by the echo."""
    session = (await client.create(CreateParams(agent="walrus"))).session
    for _ in range(messages):
        await client.send(SendParams(session=session, content="x" * size))
    return session


async def test_five_hundred_that_connect_at_once_are_all_answered(own: Walrusd) -> None:
    pinged = 0

    async def ping() -> None:
        nonlocal pinged
        async with connect(own.socket) as client:
            await client.ping()
            pinged += 1

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(ping)
    assert pinged == 500


async def test_one_connection_too_many_is_told_so_and_when_another_leaves_there_is_room(own: Walrusd) -> None:
    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            lines = [await stack.enter_async_context(raw(own.socket)) for _ in range(512)]
            for line in lines:
                await line.call("daemon.ping")
            async with raw(own.socket) as refused:
                error = (await refused.receive())["error"]
                assert (error["code"], error["data"]["kind"]) == (-32001, "too_many_connections")
                assert error["data"]["retry_after_ms"] > 0
                assert "max_connections" in error["data"]["hint"]
                assert await refused.next() is None
            await lines[0].stream.aclose()
            assert await served(own)


async def served(daemon: Walrusd) -> bool:
    """Whether a connection is served in the end: that another has left is seen when the daemon next reads it."""
    while True:
        async with raw(daemon.socket) as line:
            try:
                await line.ask("daemon.ping")
                answer = await line.receive()
            except (AssertionError, trio.BrokenResourceError):
                continue
            if "result" in answer:
                return True


async def test_one_that_connects_and_says_nothing_is_in_nobodys_way(daemon: Walrusd, client: Client) -> None:
    async with raw(daemon.socket):
        assert (await client.status()).connections >= 2


async def test_one_that_attaches_and_never_reads_costs_an_outbox_and_holds_up_nobody(own: Walrusd) -> None:
    async with connect(own.socket) as client, raw(own.socket) as deaf:
        session = await talked(client, 12, 3 * MIB)
        before = await rss(client)
        await deaf.ask("session.attach", {"session": session})
        assert (await client.send(SendParams(session=session, content="hi"))).text == "hi"
        assert await rss(client) - before < 32 * MIB


async def test_one_that_attaches_a_hundred_times_and_never_reads_costs_no_more(own: Walrusd) -> None:
    async with connect(own.socket) as client, raw(own.socket) as deaf:
        session = await talked(client, 12, MIB)
        before = await rss(client)
        await deaf.send(*(request("session.attach", {"session": session}, number) for number in range(100)))
        assert (await client.send(SendParams(session=session, content="hi"))).text == "hi"
        assert await rss(client) - before < 48 * MIB


async def test_one_that_asks_for_histories_and_never_reads_them_costs_an_outbox(own: Walrusd) -> None:
    async with connect(own.socket) as client, raw(own.socket) as deaf:
        session = await talked(client, 1, MIB // 2)
        before = await rss(client)
        await deaf.send(*(request("session.history", {"session": session}, number) for number in range(500)))
        assert await rss(client) - before < 48 * MIB
        assert (await client.session(SessionParams(session=session))).messages == 2


async def test_one_that_floods_with_pings_and_never_reads_is_no_longer_read(own: Walrusd) -> None:
    pings = b"".join(framed(json.dumps(request("daemon.ping", id=f"{number:0100}")).encode()) for number in range(400))
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(own.socket))
        deaf.setblocking(False)
        async with connect(own.socket) as client:
            before = await rss(client)
            sent = 0
            while (taken := await taken_by(deaf, pings[sent % len(pings) :], client)) > 0:
                sent += taken
                assert sent < 64 * MIB, "the daemon reads on though nobody reads its answers"
            assert await rss(client) - before < 16 * MIB
            await client.ping()


async def taken_by(deaf: socket.socket, data: bytes, client: Client) -> int:
    """How much more goes in, though the daemon has had its chance to make room."""
    for _ in range(20):
        try:
            return deaf.send(data)
        except BlockingIOError:
            await client.ping()
    return 0


async def test_a_daemon_whose_clients_do_not_read_still_stops(own: Walrusd) -> None:
    async with connect(own.socket) as client, raw(own.socket) as deaf:
        session = await talked(client, 4, 3 * MIB)
        await deaf.ask("session.attach", {"session": session})
        await client.ping()
        own.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(own.ended) == 0


async def test_a_slow_reader_gets_every_fact_all_the_same(own: Walrusd) -> None:
    async with connect(own.socket) as client, raw(own.socket) as slow:
        session = await talked(client, 12, 2 * MIB)
        await slow.ask("session.attach", {"session": session, "follow": False})
        await rss(client)
        seqs = [event["seq"] for event in (await slow.events())[0]]
        assert seqs == list(range(1, 12 * 3 + 2))
