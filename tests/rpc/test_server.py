"""The server alone, in the test's own process and time: for what a real daemon would need half a minute."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes.model import FakeModel
from tests.rpc.raw import raw
from walrus_config.schema import Config, Storage
from walrus_protocol.housekeeping import Reloaded
from walrusd.host.clock import SystemClock
from walrusd.metrics import Metrics
from walrusd.rpc.call import House
from walrusd.rpc.listener import listening
from walrusd.rpc.server import FRAME_S, Server
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.runtime import Runtime
from walrusd.schedule.schedules import Schedules
from walrusd.space import Space


async def never() -> Reloaded:
    await trio.lowlevel.checkpoint()
    raise AssertionError("nobody asks for it here")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Server, Path]]:
    """A server and its socket."""
    path = tmp_path / "walrus.sock"
    async with Runtime(FakeModel()) as runtime, listening(path) as listener, trio.open_nursery() as nursery:
        facts, sessions = await DaemonFacts.open(runtime.log), runtime.sessions_in_memory
        house = House(
            runtime=runtime,
            config=lambda: Config(home=str(tmp_path), path=str(tmp_path / "walrus.toml")),
            version="0",
            socket=str(path),
            uptime=trio.current_time,
            metrics=Metrics("0"),
            providers=tuple,
            connections=lambda: 0,
            warnings=lambda: (),
            schedules=Schedules(runtime, facts, SystemClock()),
            reload=never,
            space=Space(runtime.log, sessions, facts, storage=Storage, clock=time.time, see=lambda _: None),
            stop=lambda: None,
        )
        server = Server(house, 512)
        nursery.start_soon(server.serve, listener)
        yield server, path
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(served: tuple[Server, Path]) -> Path:
    return served[1]


async def test_half_a_frame_and_then_silence_is_hung_up_on(path: Path, autojump_clock: MockClock) -> None:
    async with raw(path) as line:
        began = trio.current_time()
        await line.send_bytes(b"\x00\x00\x01\x00{")
        error = (await line.receive())["error"]
        assert (error["code"], error["data"]["kind"]) == (-32600, "invalid_request")
        assert "not finished" in error["message"]
        assert await line.next() is None
        assert trio.current_time() - began == FRAME_S


async def test_silence_between_frames_is_nobodys_business(path: Path, autojump_clock: MockClock) -> None:
    async with raw(path) as line:
        await line.call("daemon.ping")
        await trio.sleep(100 * FRAME_S)
        assert (await line.call("daemon.ping"))["result"] == {}


async def test_a_stop_waits_for_a_slow_reader_no_longer_than_it_reads(
    served: tuple[Server, Path], mock_clock: MockClock
) -> None:
    server, path = served
    async with raw(path) as line, trio.open_nursery() as nursery:
        stopped = trio.Event()

        async def stop() -> None:
            await server.last_words()
            stopped.set()

        for number in range(64):  # more than a socket takes at once, so some of it waits for its reader
            await line.ask("rpc.discover", id=number)
        nursery.start_soon(stop)
        await wait_all_tasks_blocked(0.01)
        for _ in range(64):
            await line.receive()
        await stopped.wait()  # on a clock that stands still: no time-out has ended it
