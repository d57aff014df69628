"""A session taken to another home: the same history, and to the byte the same next request to its model."""

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
"""More than a model is shown."""


class HomePair:
    """A home where things happen, and another one, whose agent is the same and works in the same folder."""

    def __init__(
        self, source: Home, target: Home, source_client: AsyncClient, target_client: AsyncClient, provider: FakeProvider
    ) -> None:
        self.source = source
        self.target = target
        self.source_client = source_client
        self.target_client = target_client
        self.provider = provider

    async def export_and_import(self, session: int, *, by_cli: bool = False) -> int:
        """The session's id in the other home, taken there by the programs of the command line or by the client."""
        if by_cli:
            file = self.source.path / "carried.json"
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
        """What a model is asked next in that session; it answers with nothing of note."""
        self.provider.enqueue(replies("As you say."))
        await client.send(SendParams(session=session, content="and now?"))
        return self.provider.requests[-1].raw

    async def check_same_next_request(self, session: int, imported: int) -> None:
        mine = await self.source_client.history(HistoryParams(session=session, limit=500))
        theirs = await self.target_client.history(HistoryParams(session=imported, limit=500))
        assert mine == theirs
        asked = await self.next_request(self.source_client, session)
        assert b"and now?" in asked
        assert await self.next_request(self.target_client, imported) == asked


@pytest.fixture
async def homes(tmp_path: Path) -> AsyncIterator[HomePair]:
    async with open_provider() as provider:
        (tmp_path / "work").mkdir()
        of_the_reader = f'permissions = {{ allow = ["bash"] }}\nworkspace = "{tmp_path}/work"'
        toml = TOML.format(url=provider.url).replace("[agents.reader]", f"[agents.reader]\n{of_the_reader}")
        toml += '[tools.bash]\nsandbox = "none"\n'
        here, there = (Home(tmp_path / name, toml) for name in ("here", "there"))
        async with run_and_connect(here) as client, run_and_connect(there) as other:
            with trio.fail_after(MAX_WAIT_S):
                yield HomePair(here, there, client, other, provider)


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

    carried = await homes.export_and_import(third)
    await homes.check_same_next_request(third, carried)
    async with client.attach(AttachParams(session=first, follow=False)) as events:
        (ref,) = [event.ref async for event in events if isinstance(event, ToolResult)]
    assert ref is not None
    assert await read_output(homes.target_client, carried, ref) == COUNT_OUTPUT
    asked = len(provider.requests)
    repeat = await homes.target_client.send(SendParams(session=carried, content="Look again.", key="again"))
    assert (repeat.turn, repeat.text, len(provider.requests)) == (1, "Still many.", asked)
    assert (await homes.target_client.session(SessionParams(session=carried))).title == "of large files"


async def read_output(client: AsyncClient, session: int, ref: str) -> str:
    text, at = "", 0
    while True:
        page = await client.output(OutputParams(session=session, ref=ref, offset=at))
        text += page.text
        if page.next is None:
            return text
        at = page.next


async def test_a_closed_session_moved_by_the_cli_stays_closed_and_can_be_forked(homes: HomePair) -> None:
    session = (await homes.source_client.create(CreateParams(agent="reader"))).session
    homes.provider.enqueue(replies("Hello."))
    await homes.source_client.send(SendParams(session=session, content="Hello!"))
    await homes.source_client.close(CloseParams(session=session))
    carried = await homes.export_and_import(session, by_cli=True)
    assert (await homes.target_client.session(SessionParams(session=carried))).state == "closed"
    twins = [
        (await one.fork(ForkParams(session=of))).session
        for one, of in ((homes.source_client, session), (homes.target_client, carried))
    ]
    await homes.check_same_next_request(*twins)


async def test_the_export_of_a_running_session_ends_before_its_turn(homes: HomePair) -> None:
    client = homes.source_client
    session = (await client.create(CreateParams(agent="reader"))).session
    homes.provider.enqueue(replies("Hello."), hangs("Let me think"))
    first = await client.send(SendParams(session=session, content="Hello!"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, SendParams(session=session, content="How are you?"))
        await homes.provider.wait_until(lambda provider: len(provider.requests) == 2)
        carried = await homes.export_and_import(session)
        nursery.cancel_scope.cancel()
    await client.close(CloseParams(session=session, force=True))
    assert (await homes.target_client.session(SessionParams(session=carried))).last_seq == first.last_seq
    fork = (await client.fork(ForkParams(session=session, at=first.last_seq))).session
    await homes.check_same_next_request(fork, carried)


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
                houses = HomePair(home, home, client, client, provider)
                carried = await houses.export_and_import(fork)
            daemon.kill()
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                await HomePair(home, home, client, client, provider).check_same_next_request(fork, carried)
                assert (await client.send(SendParams(session=carried, content="Hello again!", key="k"))).turn == 1
