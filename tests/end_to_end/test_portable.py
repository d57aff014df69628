"""A session taken to another home: the same history, and to the byte the same next request to its model."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.end_to_end.test_tools import TOML
from tests.fakes.home import PATIENCE_S, Home
from tests.fakes.provider import FakeProvider, calls, hangs, open_provider, says
from walrus_protocol.aclient import Client, connect
from walrus_protocol.branches import ForkParams, RewindParams
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
from walrus_protocol.portable import ExportParams, ImportParams

COUNT = {"command": "seq 40000"}
COUNTED = "".join(f"{number}\n" for number in range(1, 40_001))
"""More than a model is shown."""


class Houses:
    """A home where things happen, and another one, whose agent is the same and works in the same folder."""

    def __init__(self, here: Home, there: Home, client: Client, other: Client, provider: FakeProvider) -> None:
        self.here = here
        self.there = there
        self.client = client
        self.other = other
        self.provider = provider

    async def carried(self, session: int, *, by_hand: bool = False) -> int:
        """The session's id in the other home, taken there by the programs of the command line or by the client."""
        if by_hand:
            file = self.here.path / "carried.json"
            export = ("session", "export", str(session), "-o", str(file))
            done = await trio.to_thread.run_sync(lambda: self.here.walrusctl(*export))
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
            done = await trio.to_thread.run_sync(lambda: self.there.walrusctl("session", "import", str(file)))
            assert (done.returncode, done.stderr) == (0, "")
            return int(done.stdout)
        async with self.client.export(ExportParams(session=session)) as pieces:
            text = "".join([piece async for piece in pieces])
        made = await self.other.import_(ImportParams(data=text))
        assert made.session is not None
        return made.session

    async def next_request(self, client: Client, session: int) -> bytes:
        """What a model is asked next in that session; it answers with nothing of note."""
        self.provider.will(says("As you say."))
        await client.send(SendParams(session=session, content="and now?"))
        return self.provider.requests[-1].raw

    async def check_same(self, session: int, carried: int) -> None:
        mine = await self.client.history(HistoryParams(session=session, limit=500))
        theirs = await self.other.history(HistoryParams(session=carried, limit=500))
        assert mine == theirs
        asked = await self.next_request(self.client, session)
        assert b"and now?" in asked
        assert await self.next_request(self.other, carried) == asked


@pytest.fixture
async def houses(tmp_path: Path) -> AsyncIterator[Houses]:
    async with open_provider() as provider:
        (tmp_path / "work").mkdir()
        of_the_reader = f'permissions = {{ allow = ["bash"] }}\nworkspace = "{tmp_path}/work"'
        toml = TOML.format(url=provider.url).replace("[agents.reader]", f"[agents.reader]\n{of_the_reader}")
        toml += '[tools.bash]\nsandbox = "none"\n'
        here, there = (Home(tmp_path / name, toml) for name in ("here", "there"))
        async with at(here) as client, at(there) as other:
            with trio.fail_after(PATIENCE_S):
                yield Houses(here, there, client, other, provider)


@asynccontextmanager
async def at(home: Home) -> AsyncIterator[Client]:
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client:
            yield client


async def test_a_fork_of_a_fork_with_rewinds_and_large_outputs_goes_on_elsewhere_as_here(houses: Houses) -> None:
    client, provider = houses.client, houses.provider
    first = (await client.create(CreateParams(agent="reader", created_by="me", title="of large files"))).session
    provider.will(says("Hello."), calls(("bash", COUNT), text="Let me see."), says("Many lines."))
    await client.send(SendParams(session=first, content="Hello!", key="hello"))
    read = await client.send(SendParams(session=first, content="What is in it?"))
    second = (await client.fork(ForkParams(session=first, at=read.last_seq))).session
    provider.will(says("No."), says("Yes."))
    refused = await client.send(SendParams(session=second, content="Is it good?", key="good?"))
    await client.rewind(RewindParams(session=second, to=refused.first_seq - 1))
    await client.send(SendParams(session=second, content="Is it long?", sender="ann", key="long?"))
    third = (await client.fork(ForkParams(session=second))).session
    provider.will(calls(("bash", COUNT), ("read", {"path": "none.txt"})), says("Still many."))
    await client.send(SendParams(session=third, content="Look again.", key="again"))

    carried = await houses.carried(third)
    await houses.check_same(third, carried)
    async with client.attach(AttachParams(session=first, follow=False)) as events:
        (ref,) = [event.ref async for event in events if isinstance(event, ToolResult)]
    assert ref is not None
    assert await output(houses.other, carried, ref) == COUNTED
    asked = len(provider.requests)
    repeat = await houses.other.send(SendParams(session=carried, content="Look again.", key="again"))
    assert (repeat.turn, repeat.text, len(provider.requests)) == (1, "Still many.", asked)
    assert (await houses.other.session(SessionParams(session=carried))).title == "of large files"


async def output(client: Client, session: int, ref: str) -> str:
    text, at = "", 0
    while True:
        page = await client.output(OutputParams(session=session, ref=ref, offset=at))
        text += page.text
        if page.next is None:
            return text
        at = page.next


async def test_the_programs_carry_a_closed_session_which_stays_closed_and_can_be_forked(houses: Houses) -> None:
    session = (await houses.client.create(CreateParams(agent="reader"))).session
    houses.provider.will(says("Hello."))
    await houses.client.send(SendParams(session=session, content="Hello!"))
    await houses.client.close(CloseParams(session=session))
    carried = await houses.carried(session, by_hand=True)
    assert (await houses.other.session(SessionParams(session=carried))).state == "closed"
    twins = [
        (await one.fork(ForkParams(session=of))).session
        for one, of in ((houses.client, session), (houses.other, carried))
    ]
    await houses.check_same(*twins)


async def test_of_a_session_that_runs_what_came_before_its_turn_is_carried(houses: Houses) -> None:
    client = houses.client
    session = (await client.create(CreateParams(agent="reader"))).session
    houses.provider.will(says("Hello."), hangs("Let me think"))
    first = await client.send(SendParams(session=session, content="Hello!"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, SendParams(session=session, content="How are you?"))
        await houses.provider.until(lambda provider: len(provider.requests) == 2)
        carried = await houses.carried(session)
        nursery.cancel_scope.cancel()
    await client.close(CloseParams(session=session, force=True))
    assert (await houses.other.session(SessionParams(session=carried))).last_seq == first.last_seq
    fork = (await client.fork(ForkParams(session=session, at=first.last_seq))).session
    await houses.check_same(fork, carried)


async def test_an_import_goes_on_after_its_walrusd_was_killed(tmp_path: Path) -> None:
    async with open_provider() as provider:
        provider.always(says("Hello."))
        home = Home(tmp_path / "home", TOML.format(url=provider.url))
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                session = (await client.create(CreateParams(agent="reader"))).session
                await client.send(SendParams(session=session, content="Hello!"))
                fork = (await client.fork(ForkParams(session=session))).session
                await client.send(SendParams(session=fork, content="Hello again!", key="k"))
                houses = Houses(home, home, client, client, provider)
                carried = await houses.carried(fork)
            daemon.kill()
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                await Houses(home, home, client, client, provider).check_same(fork, carried)
                assert (await client.send(SendParams(session=carried, content="Hello again!", key="k"))).turn == 1
