"""A disk that takes nothing more in the middle of a turn, met by a real SQLite in a real daemon."""

import contextlib
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes.home import PATIENCE_S, Home, Walrusd
from tests.fakes.provider import FakeProvider, open_provider, says
from tests.rpc.raw import Json, Raw, raw
from walrus_protocol.aclient import Client, connect
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
def limited(daemon: Walrusd) -> Iterator[None]:
    """Every write of the daemon to a file fails with EFBIG, as on a disk with a fault."""
    before = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Not a byte is left on the file system of a folder."""
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
async def speaking(home: Path) -> AsyncIterator[tuple[Home, FakeProvider]]:
    with trio.fail_after(PATIENCE_S):
        async with open_provider() as fake:
            yield Home(home, TOML.format(url=fake.url)), fake


async def in_mid_turn(line: Raw, client: Client, fake: FakeProvider) -> tuple[int, trio.Event]:
    """A session whose streamed turn has said something; the event lets it say the rest."""
    session = (await client.create(CreateParams(agent="walrus"))).session
    now, gate = trio.Event(), trio.Event()
    now.set()
    fake.will(says(["so far ", "so good"], gate=[now, gate]))
    await line.ask("session.stream", {"session": session, "content": "hi"})
    while (await line.receive())["params"]["event"]["type"] != "text_delta":
        pass
    return session, gate


async def refused(client: Client, session: int) -> str:
    with pytest.raises(RequestFailed) as sending:
        await client.send(SendParams(session=session, content="more"))
    with pytest.raises(RequestFailed) as creating:
        await client.create(CreateParams(agent="walrus"))
    assert sending.value.code == creating.value.code == -32603
    assert sending.value.kind == creating.value.kind
    assert sending.value.hint
    return sending.value.kind


async def accepted(client: Client, session: int) -> TurnResult:
    """The next turn, as soon as the daemon has found out that the disk is well again."""
    while True:
        try:
            return await client.send(SendParams(session=session, content="more"))
        except RequestFailed as still:
            if still.kind not in {"storage_full", "storage_failed"}:
                raise


async def ends(client: Client, session: int) -> list[Done]:
    async with client.attach(AttachParams(session=session, follow=False)) as events:
        return [event async for event in events if isinstance(event, Done)]


def told(answer: Json, session: int) -> str:
    """The kind of the error that names the turn."""
    error = answer["error"]
    assert error["code"] == -32603
    assert (error["data"]["session"], error["data"]["turn"]) == (session, 1)
    assert error["data"]["hint"]
    kind: str = error["data"]["kind"]
    return kind


async def suspends_and_goes_on(
    daemon: Walrusd, fake: FakeProvider, broken: contextlib.AbstractContextManager[None], kind: str
) -> None:
    async with raw(daemon.socket) as line, connect(daemon.socket) as client:
        session, gate = await in_mid_turn(line, client, fake)
        with broken:
            gate.set()
            events, answer = await line.events()
            assert told(answer, session) == kind
            assert "done" not in [event["type"] for event in events], "nothing more is published as fact"
            assert await refused(client, session) == kind
            shown = await client.session(SessionParams(session=session))
            assert (shown.state, shown.last_seq) == ("processing", 2)
            assert (await client.history(HistoryParams(session=session))).messages == (User("hi"),)
            assert await ends(client, session) == []
            assert any(str(session) in warning for warning in (await client.status()).warnings)
        fake.always(says("I am back"))
        assert (await accepted(client, session)).text == "I am back"
        first, second = await ends(client, session)
        assert (first.turn, first.stop_reason, first.error and first.error.kind) == (1, "error", "storage")
        assert (second.turn, second.stop_reason) == (2, "text_response")


async def test_a_disk_that_fails_suspends_the_turn_and_when_it_works_again_the_session_goes_on(tmp_path: Path) -> None:
    async with speaking(tmp_path / "home") as (home, fake):
        with home.walrusd() as daemon:
            await suspends_and_goes_on(daemon, fake, limited(daemon), "storage_failed")


async def test_a_full_disk_that_only_refused_requests_have_met_is_told_until_one_is_taken(tmp_path: Path) -> None:
    async with speaking(tmp_path / "home") as (home, fake):
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                session = (await client.create(CreateParams(agent="walrus"))).session
                before = (await client.status()).warnings
                with limited(daemon):
                    assert await refused(client, session) == "storage_failed"
                    (warning,) = set((await client.status()).warnings) - {*before}
                assert warning.startswith(f"The last write to the log failed: cannot write to {home.path}/walrus.db: ")
                assert warning.endswith("the session goes on when the store can write again.")
                fake.always(says("I am back"))
                assert (await client.send(SendParams(session=session, content="more"))).text == "I am back"
                assert (await client.status()).warnings == before
            [line] = daemon.lines("the log cannot be written")
            assert line["level"] == "warning"
            assert len(daemon.lines("the log can be written again")) == 1


async def test_a_suspended_turn_can_be_interrupted_as_soon_as_the_disk_works_again(tmp_path: Path) -> None:
    async with speaking(tmp_path / "home") as (home, fake):
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line, connect(daemon.socket) as client:
                session, gate = await in_mid_turn(line, client, fake)
                with limited(daemon):
                    gate.set()
                    assert told((await line.events())[1], session) == "storage_failed"
                    for asking in (
                        client.interrupt(SessionParams(session=session)),
                        client.close(CloseParams(session=session, force=True)),
                    ):
                        with pytest.raises(RequestFailed) as refusal:
                            await asking
                        assert (refusal.value.code, refusal.value.kind) == (-32603, "storage_failed")
                assert (await client.close(CloseParams(session=session, force=True))).closed
                [done] = await ends(client, session)
                assert done.turn == 1


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a new home and little more."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_suspends_the_turn_and_when_there_is_room_the_session_goes_on(small: Path) -> None:
    async with speaking(small / "home") as (home, fake):
        with home.walrusd() as daemon:
            await suspends_and_goes_on(daemon, fake, filled(small), "storage_full")


async def test_a_daemon_that_is_stopped_on_a_full_disk_goes_on_with_the_turn_when_it_starts_with_room(
    small: Path,
) -> None:
    async with speaking(small / "home") as (home, fake):
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line, connect(daemon.socket) as client:
                session, gate = await in_mid_turn(line, client, fake)
                with filled(small):
                    gate.set()
                    assert told((await line.events())[1], session) == "storage_full"
                    assert await trio.to_thread.run_sync(daemon.term) == 0
        fake.always(says("I am back"))
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                assert (await client.send(SendParams(session=session, content="more"))).text == "I am back"
                first, second = await ends(client, session)
                assert (first.turn, first.stop_reason, first.text) == (1, "text_response", "I am back")
                assert (second.turn, second.stop_reason) == (2, "text_response")


async def test_a_start_on_a_full_disk_says_so(small: Path) -> None:
    home = Home(small / "home")
    with filled(small):
        status, said = await trio.to_thread.run_sync(home.refuses_to_start)
    assert status != 0
    assert "Traceback" not in said
    assert str(home.path) in said
    with home.walrusd():
        pass
