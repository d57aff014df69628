"""Tests of the server in the test's process on a mock clock: a real daemon would take half a minute."""

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
    raise AssertionError("no test here reloads")


@pytest.fixture
async def server_and_path(tmp_path: Path) -> AsyncIterator[tuple[Server, Path]]:
    """Yields a server and the path of its socket."""
    path = tmp_path / "walrus.sock"
    async with Runtime(FakeModel()) as runtime, open_listener(path) as listener, trio.open_nursery() as nursery:
        recorder, sessions = await DaemonRecorder.open(runtime.log), runtime.session_cache
        services = DaemonServices(
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
            scheduler=Scheduler(runtime, recorder, SystemClock()),
            reload=unexpected_reload,
            retention=RetentionCollector(
                runtime.log,
                sessions,
                recorder,
                storage_settings=StorageSettings,
                clock=time.time,
                on_event=lambda _: None,
            ),
            request_stop=lambda: None,
        )
        server = Server(services, 512)
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
