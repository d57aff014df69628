"""Tests of many clients, and of clients that do not read: others are served, and memory stays bounded."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.fakes.home import MAX_WAIT_S, Home, WalrusdProcess
from tests.rpc.raw_client import encode_frame, open_raw_client, request
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.methods import CreateParams, SendParams, SessionParams

MIB = 1024 * 1024


@pytest.fixture
def own_daemon(tmp_path: Path) -> Iterator[WalrusdProcess]:
    """Yields a daemon whose memory and connections no other test uses."""
    with Home(tmp_path / "home").walrusd() as daemon:
        yield daemon


async def rss_after_pings(client: AsyncClient) -> int:
    """Returns the daemon's memory after 50 pings, so that it has handled earlier requests."""
    for _ in range(50):
        await client.ping()
    return (await client.status()).rss_bytes


async def session_with_messages(client: AsyncClient, messages: int, size: int) -> int:
    """Creates a session and sends messages of `size` characters, each repeated by the echo agent."""
    session = (await client.create(CreateParams(agent="walrus"))).session
    for _ in range(messages):
        await client.send(SendParams(session=session, content="x" * size))
    return session


async def test_five_hundred_clients_that_connect_at_once_are_all_answered(own_daemon: WalrusdProcess) -> None:
    pinged = 0

    async def ping() -> None:
        nonlocal pinged
        async with connect(own_daemon.socket) as client:
            await client.ping()
            pinged += 1

    with trio.fail_after(MAX_WAIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(ping)
    assert pinged == 500


async def test_one_connection_too_many_is_refused_until_another_one_closes(own_daemon: WalrusdProcess) -> None:
    with trio.fail_after(MAX_WAIT_S):
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(open_raw_client(own_daemon.socket)) for _ in range(512)]
            for client in clients:
                await client.call("daemon.ping")
            async with open_raw_client(own_daemon.socket) as refused:
                error = (await refused.receive())["error"]
                assert (error["code"], error["data"]["kind"]) == (-32001, "too_many_connections")
                assert error["data"]["retry_after_ms"] > 0
                assert "max_connections" in error["data"]["hint"]
                assert await refused.receive_or_end() is None
            await clients[0].stream.aclose()
            assert await wait_served(own_daemon)


async def wait_served(daemon: WalrusdProcess) -> bool:
    """Tries until a connection is served: the daemon notices a closed one only when it next reads it."""
    while True:
        async with open_raw_client(daemon.socket) as raw_client:
            try:
                await raw_client.send_request("daemon.ping")
                answer = await raw_client.receive()
            except (AssertionError, trio.BrokenResourceError):
                continue
            if "result" in answer:
                return True


async def test_an_idle_connection_delays_no_other(daemon: WalrusdProcess, client: AsyncClient) -> None:
    async with open_raw_client(daemon.socket):
        assert (await client.status()).connections >= 2


async def test_a_subscriber_that_never_reads_costs_one_outbox_and_delays_no_other(own_daemon: WalrusdProcess) -> None:
    async with connect(own_daemon.socket) as client, open_raw_client(own_daemon.socket) as not_reading:
        session = await session_with_messages(client, 12, 3 * MIB)
        before = await rss_after_pings(client)
        await not_reading.send_request("session.attach", {"session": session})
        assert (await client.send(SendParams(session=session, content="hi"))).text == "hi"
        assert await rss_after_pings(client) - before < 32 * MIB


async def test_a_hundred_attachments_that_are_never_read_cost_no_more(own_daemon: WalrusdProcess) -> None:
    async with connect(own_daemon.socket) as client, open_raw_client(own_daemon.socket) as not_reading:
        session = await session_with_messages(client, 12, MIB)
        before = await rss_after_pings(client)
        await not_reading.send(*(request("session.attach", {"session": session}, number) for number in range(100)))
        assert (await client.send(SendParams(session=session, content="hi"))).text == "hi"
        assert await rss_after_pings(client) - before < 48 * MIB


async def test_histories_that_are_never_read_cost_one_outbox(own_daemon: WalrusdProcess) -> None:
    async with connect(own_daemon.socket) as client, open_raw_client(own_daemon.socket) as not_reading:
        session = await session_with_messages(client, 1, MIB // 2)
        before = await rss_after_pings(client)
        await not_reading.send(*(request("session.history", {"session": session}, number) for number in range(500)))
        assert await rss_after_pings(client) - before < 48 * MIB
        assert (await client.session(SessionParams(session=session))).messages == 2


async def test_the_daemon_stops_reading_a_client_that_does_not_read_its_answers(own_daemon: WalrusdProcess) -> None:
    pings = b"".join(
        encode_frame(json.dumps(request("daemon.ping", id=f"{number:0100}")).encode()) for number in range(400)
    )
    with socket.socket(socket.AF_UNIX) as not_reading:
        not_reading.connect(str(own_daemon.socket))
        not_reading.setblocking(False)
        async with connect(own_daemon.socket) as client:
            before = await rss_after_pings(client)
            sent = 0
            while (accepted := await bytes_accepted(not_reading, pings[sent % len(pings) :], client)) > 0:
                sent += accepted
                assert sent < 64 * MIB, "the daemon still reads although the client does not read its answers"
            assert await rss_after_pings(client) - before < 16 * MIB
            await client.ping()


async def bytes_accepted(client_socket: socket.socket, data: bytes, client: AsyncClient) -> int:
    """Returns how many bytes the socket accepts; retries up to 20 times, so that the daemon can read."""
    for _ in range(20):
        try:
            return client_socket.send(data)
        except BlockingIOError:
            await client.ping()
    return 0


@pytest.mark.slow
async def test_a_daemon_whose_clients_do_not_read_still_stops(own_daemon: WalrusdProcess) -> None:
    async with connect(own_daemon.socket) as client, open_raw_client(own_daemon.socket) as not_reading:
        session = await session_with_messages(client, 4, 3 * MIB)
        await not_reading.send_request("session.attach", {"session": session})
        await client.ping()
        own_daemon.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(own_daemon.wait_exit) == 0


@pytest.mark.slow
async def test_a_slow_reader_gets_every_logged_event(own_daemon: WalrusdProcess) -> None:
    async with connect(own_daemon.socket) as client, open_raw_client(own_daemon.socket) as slow:
        session = await session_with_messages(client, 12, 2 * MIB)
        await slow.send_request("session.attach", {"session": session, "follow": False})
        await rss_after_pings(client)
        seqs = [event["seq"] for event in (await slow.receive_events())[0]]
        assert seqs == list(range(1, 12 * 3 + 2))
