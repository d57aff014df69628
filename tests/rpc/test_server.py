"""Tests of the server in the test's process on a mock clock: a real daemon would take half a minute."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.rpc.raw_client import open_raw_client
from walrus_protocol.methods import METHODS
from walrus_protocol.methods.daemon import Pong
from walrus_protocol.param_types import Params
from walrusd.observability.metrics import Metrics
from walrusd.rpc.handlers import daemon
from walrusd.rpc.listener import open_listener
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Handler, Routes
from walrusd.rpc.server import FRAME_TIMEOUT_S, Server


def answer_inline(_: RequestContext, __: Params) -> Pong:
    return Pong()


async def answer_later(_: RequestContext, __: Params) -> Pong:
    await trio.lowlevel.checkpoint()
    return Pong()


ROUTES: dict[str, Handler] = {
    **{name: answer_inline if row.inline else answer_later for name, row in METHODS.items()},
    "rpc.discover": daemon.discover,
}


def new_server(routes: Routes) -> Server:
    return Server(routes, Metrics("0"), max_connections=512, upload_folder=".")


@pytest.fixture
async def server_and_path(tmp_path: Path) -> AsyncIterator[tuple[Server, Path]]:
    """Yields a server and the path of its socket."""
    path = tmp_path / "walrus.sock"
    async with open_listener(path) as listener, trio.open_nursery() as nursery:
        server = new_server(ROUTES)
        nursery.start_soon(server.serve, listener)
        yield server, path
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(server_and_path: tuple[Server, Path]) -> Path:
    return server_and_path[1]


async def test_a_connection_with_an_unfinished_frame_is_closed_after_a_timeout(
    path: Path, autojump_clock: MockClock
) -> None:
    async with open_raw_client(path) as raw_client:
        began = trio.current_time()
        await raw_client.send_bytes(b"\x00\x00\x01\x00{")
        error = (await raw_client.receive())["error"]
        assert (error["code"], error["data"]["kind"]) == (-32600, "invalid_request")
        assert "not completed" in error["message"]
        assert await raw_client.receive_or_end() is None
        assert trio.current_time() - began == FRAME_TIMEOUT_S


async def test_a_pause_between_frames_is_allowed(path: Path, autojump_clock: MockClock) -> None:
    async with open_raw_client(path) as raw_client:
        await raw_client.call("daemon.ping")
        await trio.sleep(100 * FRAME_TIMEOUT_S)
        assert (await raw_client.call("daemon.ping"))["result"] == {}


async def test_a_stop_waits_for_a_slow_reader_only_while_it_reads(
    server_and_path: tuple[Server, Path], mock_clock: MockClock
) -> None:
    server, path = server_and_path
    async with open_raw_client(path) as raw_client, trio.open_nursery() as nursery:
        stopped = trio.Event()

        async def stop() -> None:
            await server.drain_responses()
            stopped.set()

        for number in range(64):  # more than a socket buffers, so some answers wait in the outbox
            await raw_client.send_request("rpc.discover", id=number)
        nursery.start_soon(stop)
        await wait_all_tasks_blocked(0.01)
        for _ in range(64):
            await raw_client.receive()
        await stopped.wait()  # the mock clock has not moved, so no timeout has ended it


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ({name: handler for name, handler in ROUTES.items() if name != "tool.output"}, "tool.output has no handler"),
        ({**ROUTES, "tool.input": answer_later}, "tool.input has a handler and no row"),
        ({**ROUTES, "daemon.ping": answer_later}, "daemon.ping has a handler that does not fit inline=True"),
        ({**ROUTES, "tool.output": answer_inline}, "tool.output has a handler that does not fit inline=False"),
    ],
)
def test_a_server_does_not_start_unless_its_handlers_are_those_of_the_methods(routes: Routes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_server(routes)
