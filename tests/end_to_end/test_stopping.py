"""Tests of stopping by SIGTERM, a second SIGTERM and daemon.shutdown.

They check what turns, clients and the next start do.
"""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes.home import MAX_WAIT_S, Home
from tests.fakes.provider import FakeProvider, hangs, open_provider, replies
from tests.rpc.raw_client import Json, RawClient, open_raw_client, request
from walrus_protocol.async_client import connect
from walrus_protocol.client import Unreachable
from walrus_protocol.content import Assistant, State, User
from walrus_protocol.events import Done, TurnResumed, UserMessage
from walrus_protocol.methods import AttachParams, CreateParams, HistoryParams, SendParams, WaitParams
from walrusd.session.recovery import RETRY_REPLY_PROMPT

TOML = """
[daemon]
shutdown_grace_s = {grace}
[defaults]
model = "fake"
[providers.fake]
kind = "openai"
base_url = "{url}"
models = ["fake"]
"""


@asynccontextmanager
async def home_with_provider(path: Path, *, grace: float) -> AsyncIterator[tuple[Home, FakeProvider]]:
    with trio.fail_after(MAX_WAIT_S):
        async with open_provider() as fake:
            yield Home(path / "home", TOML.format(url=fake.url, grace=grace)), fake


async def start_turn(raw_client: RawClient, method: str = "session.stream") -> int:
    """Starts a turn in a new session, and waits until the model has streamed text; returns the session id."""
    if method == "agent.run":
        await raw_client.send_request(method, {"agent": "walrus", "content": "hi"}, id="turn")
        session = 1
    else:
        session = (await raw_client.call("session.create", {"agent": "walrus"}))["result"]["session"]
        await raw_client.send_request(method, {"session": session, "content": "hi"}, id="turn")
    while (await raw_client.receive())["params"]["event"]["type"] != "text_delta":
        pass
    return session


def error_of(answer: Json) -> tuple[int, str]:
    assert answer["error"]["data"]["hint"]
    return answer["error"]["code"], answer["error"]["data"]["kind"]


async def test_a_turn_that_ends_in_the_grace_period_is_answered(tmp_path: Path) -> None:
    async with home_with_provider(tmp_path, grace=MAX_WAIT_S) as (home, fake):
        now, gate = trio.Event(), trio.Event()
        now.set()
        fake.enqueue(replies(["so far ", "so good"], gate=[now, gate]))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client, open_raw_client(daemon.socket) as other:
                await start_turn(raw_client)
                daemon.signal(signal.SIGTERM)
                await daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("stopping")))
                assert error_of(await other.call("session.create", {"agent": "walrus"})) == (-32002, "shutting_down")
                send = {"session": 1, "content": "more"}
                assert error_of(await other.call("session.send", send)) == (-32002, "shutting_down")
                assert (await other.call("session.get", {"session": 1}))["result"]["state"] == "processing"
                gate.set()
                _, answer = await raw_client.receive_events()
                assert answer["result"]["text"] == "so far so good"
                assert await trio.to_thread.run_sync(daemon.wait_exit) == 0
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                history = (await client.history(HistoryParams(session=1))).messages
                assert history == (User("hi"), Assistant(content="so far so good"))


@pytest.mark.parametrize("method", ["session.stream", "agent.run"])
async def test_after_the_grace_period_clients_get_an_error_and_the_next_start_resumes(
    tmp_path: Path, method: str
) -> None:
    async with home_with_provider(tmp_path, grace=0.05) as (home, fake):
        fake.enqueue(hangs("so far "))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                session = await start_turn(raw_client, method)
                daemon.signal(signal.SIGTERM)
                _, answer = await raw_client.receive_events()
                assert error_of(answer) == (-32002, "shutting_down")
                assert (answer["error"]["data"]["session"], answer["error"]["data"]["turn"]) == (session, 1)
                assert await trio.to_thread.run_sync(daemon.wait_exit) == 0
        fake.set_default(replies("on we go"))
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                ended: State = "closed" if method == "agent.run" else "idle"
                await client.wait(WaitParams(session=session, states=(ended,)))
                async with client.attach(AttachParams(session=session, follow=False)) as events:
                    recorded = [event async for event in events]
                [done] = [event for event in recorded if isinstance(event, Done)]
                assert (done.turn, done.stop_reason, done.error, done.text) == (1, "text_response", None, "on we go")
                [resumed] = [event for event in recorded if isinstance(event, TurnResumed)]
                assert (resumed.attempt, resumed.reason) == (1, "shutdown")
                history = (await client.history(HistoryParams(session=session))).messages
                assert history == (
                    User("hi"),
                    Assistant(content="so far "),
                    User(f"From walrusd:\n{RETRY_REPLY_PROMPT}"),
                    Assistant(content="on we go"),
                )


async def test_a_queued_message_is_answered_after_the_next_start(tmp_path: Path) -> None:
    async with home_with_provider(tmp_path, grace=0.05) as (home, fake):
        fake.enqueue(hangs("so far "))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                session = await start_turn(raw_client)
                await raw_client.send(request("session.send", {"session": session, "content": "next"}, "queued"))
                await raw_client.send(request("session.attach", {"session": session}, "watcher"))
                while (message := await raw_client.receive()).get("params", {}).get("event", {}).get("type") != (
                    "message_queued"
                ):
                    assert "error" not in message
                daemon.signal(signal.SIGTERM)
                refused = {}
                while (answer := await raw_client.receive_or_end()) is not None:
                    if "error" in answer:
                        refused[answer["id"]] = error_of(answer)
                assert refused == dict.fromkeys(("turn", "queued", "watcher"), (-32002, "shutting_down"))
                assert await trio.to_thread.run_sync(daemon.wait_exit) == 0
        fake.set_default(replies("answered"))
        with home.walrusd() as daemon:
            ends: list[tuple[int | None, str, str]] = []
            messages = []
            async with connect(daemon.socket) as client, client.attach(AttachParams(session=session)) as events:
                while len(ends) < 2:
                    event = await anext(events)
                    if isinstance(event, UserMessage):
                        messages.append(event.content)
                    if isinstance(event, Done):
                        ends.append((event.turn, event.stop_reason, event.text))
        assert messages == ["hi", RETRY_REPLY_PROMPT, "next"]
        assert ends == [(1, "text_response", "answered"), (2, "text_response", "answered")]


async def test_a_second_sigterm_ends_walrusd_at_once_without_data_loss(tmp_path: Path) -> None:
    async with home_with_provider(tmp_path, grace=600) as (home, fake):
        fake.enqueue(hangs("so far "))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client, open_raw_client(daemon.socket) as other:
                await start_turn(raw_client)
                daemon.signal(signal.SIGTERM)
                await daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("stopping")))
                assert (await other.call("daemon.status", {}))["result"]["warnings"] == [
                    "walrusd is stopping. Running turns have 600 s to finish, then they are suspended."
                ]
                daemon.signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(daemon.wait_exit) == 130
                assert not daemon.socket.exists()
        fake.set_default(replies("on we go"))
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                assert (await client.send(SendParams(session=1, content="go on"))).text == "on we go"
                assert (await client.create(CreateParams(agent="walrus"))).session == 2


async def test_a_shutdown_request_is_answered_and_stops_walrusd(tmp_path: Path) -> None:
    with Home(tmp_path / "home").walrusd() as daemon:
        async with connect(daemon.socket) as client:
            assert (await client.shutdown()).stopping
            assert await trio.to_thread.run_sync(daemon.wait_exit) == 0
        with pytest.raises(Unreachable):
            async with connect(daemon.socket) as client:
                await client.ping()
        assert not daemon.socket.exists()


async def test_subscribers_are_notified_of_a_stop(tmp_path: Path) -> None:
    with Home(tmp_path / "home").walrusd() as daemon:
        async with open_raw_client(daemon.socket) as raw_client:
            await raw_client.call("session.create", {"agent": "walrus"})
            await raw_client.send_request("session.attach", {"session": 1}, id="watch")
            await raw_client.send(request("session.wait", {"session": 1, "states": ["closed"]}, "wait"))
            while (await raw_client.receive()).get("params", {}).get("event", {}).get("type") != "state_changed":
                pass
            daemon.signal(signal.SIGTERM)
            answers = [await raw_client.receive() for _ in range(2)]
            assert {answer["id"]: error_of(answer) for answer in answers} == dict.fromkeys(
                ("watch", "wait"), (-32002, "shutting_down")
            )
            assert await raw_client.receive_or_end() is None
            assert await trio.to_thread.run_sync(daemon.wait_exit) == 0
