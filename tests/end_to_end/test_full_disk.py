"""Tests of a real daemon whose disk becomes full or fails in the middle of a turn."""

import contextlib
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes.home import MAX_WAIT_S, Home, WalrusdProcess
from tests.fakes.provider import FakeProvider, open_provider, replies
from tests.rpc.raw_client import Json, RawClient, open_raw_client
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.client import RequestFailed
from walrus_protocol.content import User
from walrus_protocol.events import Done
from walrus_protocol.methods import (
    AttachParams,
    CloseParams,
    CreateParams,
    HistoryParams,
    SendParams,
    SessionParams,
    TurnResult,
)

TOML = """
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "fake"
[providers.fake]
kind = "openai"
base_url = "{url}"
models = ["fake"]
"""


@contextlib.contextmanager
def failing_writes(daemon: WalrusdProcess) -> Iterator[None]:
    """Makes every write of the daemon to a file fail with EFBIG, like a disk fault."""
    before = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def full_filesystem(folder: Path) -> Iterator[None]:
    """Fills the file system of a folder to the last byte."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    try:
        yield
    finally:
        filler.unlink()


@asynccontextmanager
async def home_with_provider(home: Path) -> AsyncIterator[tuple[Home, FakeProvider]]:
    with trio.fail_after(MAX_WAIT_S):
        async with open_provider() as fake:
            yield Home(home, TOML.format(url=fake.url)), fake


async def start_streaming_turn(
    raw_client: RawClient, client: AsyncClient, fake: FakeProvider
) -> tuple[int, trio.Event]:
    """Starts a turn that has streamed a part of its text; setting the event releases the rest."""
    session = (await client.create(CreateParams(agent="walrus"))).session
    now, gate = trio.Event(), trio.Event()
    now.set()
    fake.enqueue(replies(["so far ", "so good"], gate=[now, gate]))
    await raw_client.send_request("session.stream", {"session": session, "content": "hi"})
    while (await raw_client.receive())["params"]["event"]["type"] != "text_delta":
        pass
    return session, gate


async def storage_error_kind(client: AsyncClient, session: int) -> str:
    with pytest.raises(RequestFailed) as sending:
        await client.send(SendParams(session=session, content="more"))
    with pytest.raises(RequestFailed) as creating:
        await client.create(CreateParams(agent="walrus"))
    assert sending.value.code == creating.value.code == -32603
    assert sending.value.kind == creating.value.kind
    assert sending.value.hint
    return sending.value.kind


async def send_until_accepted(client: AsyncClient, session: int) -> TurnResult:
    """Sends again and again until the daemon has noticed that the disk works again; returns that turn."""
    while True:
        try:
            return await client.send(SendParams(session=session, content="more"))
        except RequestFailed as failed:
            if failed.kind not in {"storage_full", "storage_failed"}:
                raise


async def done_events(client: AsyncClient, session: int) -> list[Done]:
    async with client.attach(AttachParams(session=session, follow=False)) as events:
        return [event async for event in events if isinstance(event, Done)]


def turn_error_kind(answer: Json, session: int) -> str:
    """Returns the kind of the storage error of turn 1."""
    error = answer["error"]
    assert error["code"] == -32603
    assert (error["data"]["session"], error["data"]["turn"]) == (session, 1)
    assert error["data"]["hint"]
    kind: str = error["data"]["kind"]
    return kind


async def check_suspend_and_continue(
    daemon: WalrusdProcess, fake: FakeProvider, disk_failure: contextlib.AbstractContextManager[None], kind: str
) -> None:
    async with open_raw_client(daemon.socket) as raw_client, connect(daemon.socket) as client:
        session, gate = await start_streaming_turn(raw_client, client, fake)
        with disk_failure:
            gate.set()
            events, answer = await raw_client.receive_events()
            assert turn_error_kind(answer, session) == kind
            assert "done" not in [event["type"] for event in events], "no event is published that is not stored"
            assert await storage_error_kind(client, session) == kind
            shown = await client.session(SessionParams(session=session))
            assert (shown.state, shown.last_seq) == ("processing", 2)
            assert (await client.history(HistoryParams(session=session))).messages == (User("hi"),)
            assert await done_events(client, session) == []
            assert any(str(session) in warning for warning in (await client.status()).warnings)
        fake.set_default(replies("I am back"))
        assert (await send_until_accepted(client, session)).text == "I am back"
        first, second = await done_events(client, session)
        assert (first.turn, first.stop_reason, first.error and first.error.kind) == (1, "error", "storage")
        assert (second.turn, second.stop_reason) == (2, "text_response")


async def test_a_failing_disk_suspends_the_turn_and_the_session_continues_after_it(tmp_path: Path) -> None:
    async with home_with_provider(tmp_path / "home") as (home, fake):
        with home.walrusd() as daemon:
            await check_suspend_and_continue(daemon, fake, failing_writes(daemon), "storage_failed")


async def test_status_warns_of_a_failed_write_until_a_write_succeeds(tmp_path: Path) -> None:
    async with home_with_provider(tmp_path / "home") as (home, fake):
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                session = (await client.create(CreateParams(agent="walrus"))).session
                before = (await client.status()).warnings
                with failing_writes(daemon):
                    assert await storage_error_kind(client, session) == "storage_failed"
                    (warning,) = set((await client.status()).warnings) - {*before}
                assert warning.startswith(f"The last write to the log failed: cannot write to {home.path}/walrus.db: ")
                assert warning.endswith("the session continues when the store can write again.")
                fake.set_default(replies("I am back"))
                assert (await client.send(SendParams(session=session, content="more"))).text == "I am back"
                assert (await client.status()).warnings == before
            [line] = daemon.lines_of("log_write_failed")
            assert line["level"] == "warning"
            assert len(daemon.lines_of("log_writable")) == 1


async def test_a_suspended_turn_can_be_interrupted_as_soon_as_the_disk_works_again(tmp_path: Path) -> None:
    async with home_with_provider(tmp_path / "home") as (home, fake):
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client, connect(daemon.socket) as client:
                session, gate = await start_streaming_turn(raw_client, client, fake)
                with failing_writes(daemon):
                    gate.set()
                    assert turn_error_kind((await raw_client.receive_events())[1], session) == "storage_failed"
                    for request in (
                        client.interrupt(SessionParams(session=session)),
                        client.close(CloseParams(session=session, force=True)),
                    ):
                        with pytest.raises(RequestFailed) as refusal:
                            await request
                        assert (refusal.value.code, refusal.value.kind) == (-32603, "storage_failed")
                assert (await client.close(CloseParams(session=session, force=True))).closed
                [done] = await done_events(client, session)
                assert done.turn == 1


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A file system with space for a new home and little more."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_suspends_the_turn_and_the_session_continues_when_there_is_space(
    small_filesystem: Path,
) -> None:
    async with home_with_provider(small_filesystem / "home") as (home, fake):
        with home.walrusd() as daemon:
            await check_suspend_and_continue(daemon, fake, full_filesystem(small_filesystem), "storage_full")


async def test_a_turn_suspended_by_a_full_disk_continues_after_a_restart_with_space(
    small_filesystem: Path,
) -> None:
    async with home_with_provider(small_filesystem / "home") as (home, fake):
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client, connect(daemon.socket) as client:
                session, gate = await start_streaming_turn(raw_client, client, fake)
                with full_filesystem(small_filesystem):
                    gate.set()
                    assert turn_error_kind((await raw_client.receive_events())[1], session) == "storage_full"
                    assert await trio.to_thread.run_sync(daemon.terminate) == 0
        fake.set_default(replies("I am back"))
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                assert (await client.send(SendParams(session=session, content="more"))).text == "I am back"
                first, second = await done_events(client, session)
                assert (first.turn, first.stop_reason, first.text) == (1, "text_response", "I am back")
                assert (second.turn, second.stop_reason) == (2, "text_response")


async def test_a_start_on_a_full_disk_reports_it(small_filesystem: Path) -> None:
    home = Home(small_filesystem / "home")
    with full_filesystem(small_filesystem):
        status, stderr = await trio.to_thread.run_sync(home.run_to_exit)
    assert status != 0
    assert "Traceback" not in stderr
    assert str(home.path) in stderr
    with home.walrusd():
        pass
