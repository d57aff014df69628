"""Tests that a session stays the same when it is exported to another home.

It has the same history and sends the same next request, byte for byte.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.end_to_end.test_tools import TOML
from tests.fakes.home import MAX_WAIT_S, Home
from tests.fakes.provider import FakeProvider, calls_tools, hangs, open_provider, replies
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.events import ToolResult
from walrus_protocol.methods import (
    AttachParams,
    CloseParams,
    CreateParams,
    HistoryParams,
    OutputParams,
    SendParams,
    SessionParams,
)
from walrus_protocol.methods.export_import import ExportParams, ImportParams
from walrus_protocol.methods.fork_rewind import ForkParams, RewindParams

COUNT_ARGUMENTS = {"command": "seq 40000"}
COUNT_OUTPUT = "".join(f"{number}\n" for number in range(1, 40_001))
"""A tool output that is longer than the part that a model gets."""


class HomePair:
    """A home with sessions and a second home, whose agent is the same and works in the same folder."""

    def __init__(
        self, source: Home, target: Home, source_client: AsyncClient, target_client: AsyncClient, provider: FakeProvider
    ) -> None:
        self.source = source
        self.target = target
        self.source_client = source_client
        self.target_client = target_client
        self.provider = provider

    async def export_and_import(self, session: int, *, by_cli: bool = False) -> int:
        """Moves a session to the second home by walrusctl or the client; returns its id there."""
        if by_cli:
            file = self.source.path / "exported.json"
            export = ("session", "export", str(session), "-o", str(file))
            done = await trio.to_thread.run_sync(lambda: self.source.walrusctl(*export))
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
            done = await trio.to_thread.run_sync(lambda: self.target.walrusctl("session", "import", str(file)))
            assert (done.returncode, done.stderr) == (0, "")
            return int(done.stdout)
        async with self.source_client.export(ExportParams(session=session)) as pieces:
            text = "".join([piece async for piece in pieces])
        made = await self.target_client.import_(ImportParams(data=text))
        assert made.session is not None
        return made.session

    async def next_request(self, client: AsyncClient, session: int) -> bytes:
        """Sends a message in the session; returns the body of the request that its model gets."""
        self.provider.enqueue(replies("As you say."))
        await client.send(SendParams(session=session, content="and now?"))
        return self.provider.requests[-1].raw

    async def check_same_next_request(self, session: int, imported: int) -> None:
        history = await self.source_client.history(HistoryParams(session=session, limit=500))
        imported_history = await self.target_client.history(HistoryParams(session=imported, limit=500))
        assert history == imported_history
        request = await self.next_request(self.source_client, session)
        assert b"and now?" in request
        assert await self.next_request(self.target_client, imported) == request


@pytest.fixture
async def homes(tmp_path: Path) -> AsyncIterator[HomePair]:
    async with open_provider() as provider:
        (tmp_path / "work").mkdir()
        reader_settings = f'permissions = {{ allow = ["bash"] }}\nworkspace = "{tmp_path}/work"'
        toml = TOML.format(url=provider.url).replace("[agents.reader]", f"[agents.reader]\n{reader_settings}")
        toml += '[tools.bash]\nsandbox = "none"\n'
        source, target = (Home(tmp_path / name, toml) for name in ("source", "target"))
        async with run_and_connect(source) as client, run_and_connect(target) as other:
            with trio.fail_after(MAX_WAIT_S):
                yield HomePair(source, target, client, other, provider)


@asynccontextmanager
async def run_and_connect(home: Home) -> AsyncIterator[AsyncClient]:
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client:
            yield client


async def test_an_imported_fork_of_a_fork_sends_the_same_next_request(homes: HomePair) -> None:
    client, provider = homes.source_client, homes.provider
    first = (await client.create(CreateParams(agent="reader", created_by="me", title="of large files"))).session
    provider.enqueue(
        replies("Hello."), calls_tools(("bash", COUNT_ARGUMENTS), text="Let me see."), replies("Many lines.")
    )
    await client.send(SendParams(session=first, content="Hello!", key="hello"))
    read = await client.send(SendParams(session=first, content="What is in it?"))
    second = (await client.fork(ForkParams(session=first, at=read.last_seq))).session
    provider.enqueue(replies("No."), replies("Yes."))
    refused = await client.send(SendParams(session=second, content="Is it good?", key="good?"))
    await client.rewind(RewindParams(session=second, to=refused.first_seq - 1))
    await client.send(SendParams(session=second, content="Is it long?", sender="ann", key="long?"))
    third = (await client.fork(ForkParams(session=second))).session
    provider.enqueue(calls_tools(("bash", COUNT_ARGUMENTS), ("read", {"path": "none.txt"})), replies("Still many."))
    await client.send(SendParams(session=third, content="Look again.", key="again"))

    imported = await homes.export_and_import(third)
    await homes.check_same_next_request(third, imported)
    async with client.attach(AttachParams(session=first, follow=False)) as events:
        (ref,) = [event.ref async for event in events if isinstance(event, ToolResult)]
    assert ref is not None
    assert await read_output(homes.target_client, imported, ref) == COUNT_OUTPUT
    request_count = len(provider.requests)
    repeat = await homes.target_client.send(SendParams(session=imported, content="Look again.", key="again"))
    assert (repeat.turn, repeat.text, len(provider.requests)) == (1, "Still many.", request_count)
    assert (await homes.target_client.session(SessionParams(session=imported))).title == "of large files"


async def read_output(client: AsyncClient, session: int, ref: str) -> str:
    text, offset = "", 0
    while True:
        page = await client.output(OutputParams(session=session, ref=ref, offset=offset))
        text += page.text
        if page.next is None:
            return text
        offset = page.next


async def test_a_closed_session_moved_by_the_cli_stays_closed_and_can_be_forked(homes: HomePair) -> None:
    session = (await homes.source_client.create(CreateParams(agent="reader"))).session
    homes.provider.enqueue(replies("Hello."))
    await homes.source_client.send(SendParams(session=session, content="Hello!"))
    await homes.source_client.close(CloseParams(session=session))
    imported = await homes.export_and_import(session, by_cli=True)
    assert (await homes.target_client.session(SessionParams(session=imported))).state == "closed"
    forks = [
        (await one.fork(ForkParams(session=of))).session
        for one, of in ((homes.source_client, session), (homes.target_client, imported))
    ]
    await homes.check_same_next_request(*forks)


async def test_the_export_of_a_running_session_ends_before_its_turn(homes: HomePair) -> None:
    client = homes.source_client
    session = (await client.create(CreateParams(agent="reader"))).session
    homes.provider.enqueue(replies("Hello."), hangs("Let me think"))
    first = await client.send(SendParams(session=session, content="Hello!"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, SendParams(session=session, content="How are you?"))
        await homes.provider.wait_until(lambda provider: len(provider.requests) == 2)
        imported = await homes.export_and_import(session)
        nursery.cancel_scope.cancel()
    await client.close(CloseParams(session=session, force=True))
    assert (await homes.target_client.session(SessionParams(session=imported))).last_seq == first.last_seq
    fork = (await client.fork(ForkParams(session=session, at=first.last_seq))).session
    await homes.check_same_next_request(fork, imported)


async def test_an_imported_session_works_after_its_daemon_was_killed(tmp_path: Path) -> None:
    async with open_provider() as provider:
        provider.set_default(replies("Hello."))
        home = Home(tmp_path / "home", TOML.format(url=provider.url))
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                session = (await client.create(CreateParams(agent="reader"))).session
                await client.send(SendParams(session=session, content="Hello!"))
                fork = (await client.fork(ForkParams(session=session))).session
                await client.send(SendParams(session=fork, content="Hello again!", key="k"))
                homes = HomePair(home, home, client, client, provider)
                imported = await homes.export_and_import(fork)
            daemon.kill()
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                await HomePair(home, home, client, client, provider).check_same_next_request(fork, imported)
                assert (await client.send(SendParams(session=imported, content="Hello again!", key="k"))).turn == 1
