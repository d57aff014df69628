"""The server alone, in the test's own process and time: for what a real daemon would need half a minute."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.model import FakeModel
from tests.rpc.raw import raw
from walrus_config.schema import Config
from walrusd.rpc.call import House
from walrusd.rpc.listener import listening
from walrusd.rpc.server import FRAME_S, Server
from walrusd.runtime.runtime import Runtime


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """A socket that is served."""
    path = tmp_path / "walrus.sock"
    async with Runtime(FakeModel()) as runtime, listening(path) as listener, trio.open_nursery() as nursery:
        house = House(
            runtime=runtime,
            config=Config(home=str(tmp_path), path=str(tmp_path / "walrus.toml")),
            version="0",
            socket=str(path),
            uptime=trio.current_time,
            providers=tuple,
            connections=lambda: 0,
            warnings=lambda: (),
            stop=lambda: None,
        )
        nursery.start_soon(Server(house, 512).serve, listener)
        yield path
        nursery.cancel_scope.cancel()


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
