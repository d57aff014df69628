"""The server alone, in the test's own process and time: for what a real daemon would need half a minute."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes.export_documents import make_importer
from tests.fakes.model import FakeModel
from tests.rpc.raw_client import open_raw_client
from walrus_config.schema import Config, StorageSettings
from walrus_protocol.methods.daemon import ReloadResult
from walrusd.host.clock import SystemClock
from walrusd.observability.metrics import Metrics
from walrusd.retention.collector import RetentionCollector
from walrusd.rpc.listener import open_listener
from walrusd.rpc.request_context import DaemonServices
from walrusd.rpc.server import FRAME_TIMEOUT_S, Server
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.schedule.scheduler import Scheduler


async def unexpected_reload() -> ReloadResult:
    await trio.lowlevel.checkpoint()
    raise AssertionError("nobody asks for it here")


@pytest.fixture
async def server_and_path(tmp_path: Path) -> AsyncIterator[tuple[Server, Path]]:
    """A server and its socket."""
    path = tmp_path / "walrus.sock"
    async with Runtime(FakeModel()) as runtime, open_listener(path) as listener, trio.open_nursery() as nursery:
        facts, sessions = await DaemonRecorder.open(runtime.log), runtime.session_cache
        house = DaemonServices(
            runtime=runtime,
            importer=make_importer(runtime),
            config=lambda: Config(home=str(tmp_path), path=str(tmp_path / "walrus.toml")),
            version="0",
            socket=str(path),
            uptime_s=trio.current_time,
            metrics=Metrics("0"),
            provider_statuses=tuple,
            connection_count=lambda: 0,
            warnings=lambda: (),
            scheduler=Scheduler(runtime, facts, SystemClock()),
            reload=unexpected_reload,
            retention=RetentionCollector(
                runtime.log, sessions, facts, storage_settings=StorageSettings, clock=time.time, on_event=lambda _: None
            ),
            request_stop=lambda: None,
        )
        server = Server(house, 512)
        nursery.start_soon(server.serve, listener)
        yield server, path
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(server_and_path: tuple[Server, Path]) -> Path:
    return server_and_path[1]


async def test_half_a_frame_and_then_silence_is_hung_up_on(path: Path, autojump_clock: MockClock) -> None:
    async with open_raw_client(path) as line:
        began = trio.current_time()
        await line.send_bytes(b"\x00\x00\x01\x00{")
        error = (await line.receive())["error"]
        assert (error["code"], error["data"]["kind"]) == (-32600, "invalid_request")
        assert "not finished" in error["message"]
        assert await line.receive_or_end() is None
        assert trio.current_time() - began == FRAME_TIMEOUT_S


async def test_silence_between_frames_is_allowed(path: Path, autojump_clock: MockClock) -> None:
    async with open_raw_client(path) as line:
        await line.call("daemon.ping")
        await trio.sleep(100 * FRAME_TIMEOUT_S)
        assert (await line.call("daemon.ping"))["result"] == {}


async def test_a_stop_waits_for_a_slow_reader_no_longer_than_it_reads(
    server_and_path: tuple[Server, Path], mock_clock: MockClock
) -> None:
    server, path = server_and_path
    async with open_raw_client(path) as line, trio.open_nursery() as nursery:
        stopped = trio.Event()

        async def stop() -> None:
            await server.drain_responses()
            stopped.set()

        for number in range(64):  # more than a socket takes at once, so some of it waits for its reader
            await line.send_request("rpc.discover", id=number)
        nursery.start_soon(stop)
        await wait_all_tasks_blocked(0.01)
        for _ in range(64):
            await line.receive()
        await stopped.wait()  # on a clock that stands still: no time-out has ended it
