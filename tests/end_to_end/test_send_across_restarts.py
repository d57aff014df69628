"""Tests that queued messages, keys and interrupts survive a restart after a stop and after a kill."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.fakes.home import MAX_WAIT_S, Home, WalrusdProcess
from tests.fakes.provider import FakeProvider, hangs, open_provider, replies, responds_with
from tests.fakes.validators import openai_violations
from tests.rpc.raw_client import Json, RawClient, open_raw_client, request
from walrus_protocol.async_client import connect
from walrus_protocol.methods import InterruptResult, SendParams, SessionParams

TOML = """
[daemon]
shutdown_grace_s = 0.05
max_running_turns = {slots}
[sessions]
on_restart = "{on_restart}"
[defaults]
model = "fake"
[providers.fake]
kind = "openai"
base_url = "{url}"
models = ["fake"]
max_retries = 0
"""


@asynccontextmanager
async def home_with_provider(
    path: Path, *, on_restart: str = "continue", slots: int = 64
) -> AsyncIterator[tuple[Home, FakeProvider]]:
    with trio.fail_after(3 * MAX_WAIT_S):
        async with open_provider() as fake:
            yield Home(path / "home", TOML.format(url=fake.url, on_restart=on_restart, slots=slots)), fake


async def end_daemon(daemon: WalrusdProcess, how: str) -> None:
    if how == "kill":
        await trio.to_thread.run_sync(daemon.kill)
    else:
        daemon.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(daemon.wait_exit) == 0


async def create_session(raw_client: RawClient) -> int:
    session: int = (await raw_client.call("session.create", {"agent": "walrus"}))["result"]["session"]
    return session


async def session_log(raw_client: RawClient, session: int) -> list[Json]:
    await raw_client.send_request("session.attach", {"session": session, "follow": False}, id="log")
    return (await raw_client.receive_events())[0]


async def send_queued(raw_client: RawClient, session: int, content: str, when_busy: str = "queue") -> None:
    """Sends a message, with its content as the key, and checks that it is queued."""
    params = {"session": session, "content": content, "key": content, "when_busy": when_busy}
    await raw_client.send_request("session.stream", params, id=content)
    message = await raw_client.receive()
    assert (message["params"]["request"], message["params"]["event"]["type"]) == (content, "message_queued")


def client_messages(log: list[Json]) -> list[tuple[int, str, str]]:
    """Returns turn, kind and content of the messages that clients have sent."""
    messages = [event for event in log if event["type"] == "user_message" and event["kind"] != "resume"]
    return [(message["turn"], message["kind"], message["content"]) for message in messages]


def turn_endings(log: list[Json]) -> list[tuple[int, str]]:
    return [(event["turn"], event["stop_reason"]) for event in log if event["type"] == "done"]


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize(
    ("on_restart", "turns"),
    [
        ("continue", [(1, "message", "go"), (1, "steer", "s1"), (1, "steer", "s2"), (2, "message", "q1")]),
        ("close", [(1, "message", "go"), (2, "message", "q1"), (2, "steer", "s1"), (2, "steer", "s2")]),
    ],
)
async def test_queued_messages_keep_their_order_and_kind_over_a_restart(
    tmp_path: Path, on_restart: str, turns: list[tuple[int, str, str]], how: str
) -> None:
    sends = [("q1", "queue"), ("s1", "steer"), ("q2", "queue"), ("s2", "steer")]
    async with home_with_provider(tmp_path, on_restart=on_restart) as (home, fake):
        fake.enqueue(hangs("so far"))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                session = await create_session(raw_client)
                await raw_client.send_request("session.send", {"session": session, "content": "go"}, id="go")
                await fake.wait_until(lambda fake: len(fake.requests) == 1)
                for content, mode in sends:
                    await send_queued(raw_client, session, content, mode)
                await end_daemon(daemon, how)
        fake.set_default(replies("answered"))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                results = {}
                for content, _ in sends:  # a repeat waits for the first, whose client has disconnected
                    params = {"session": session, "content": content, "key": content}
                    results[content] = (await raw_client.call("session.send", params))["result"]
                log = await session_log(raw_client, session)
        assert client_messages(log) == [*turns, (3, "message", "q2")]
        assert {content: result["turn"] for content, result in results.items()} == {
            content: turn for turn, _, content in client_messages(log)[1:]
        }
        first = "text_response" if on_restart == "continue" else "interrupted"
        assert turn_endings(log) == [(1, first), (2, "text_response"), (3, "text_response")]
        assert [openai_violations(received.messages) for received in fake.requests] == [[]] * len(fake.requests)


async def test_a_message_waiting_for_a_slot_keeps_its_place_over_a_kill(tmp_path: Path) -> None:
    async with home_with_provider(tmp_path, slots=1) as (home, fake):
        fake.enqueue(hangs("so far"))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                busy, waiting = await create_session(raw_client), await create_session(raw_client)
                await raw_client.send_request("session.send", {"session": busy, "content": "long"}, id="long")
                await fake.wait_until(lambda fake: len(fake.requests) == 1)
                for mode in ("queue", "steer", "interrupt"):
                    await send_queued(raw_client, waiting, mode, mode)
                rejected = {"session": waiting, "content": "x", "when_busy": "reject"}
                refused = await raw_client.call("session.send", rejected, id="reject")
                assert refused["error"]["data"]["kind"] == "session_busy"
                answer = await raw_client.call("session.interrupt", {"session": waiting}, id="interrupt waiting")
                assert answer["result"] == {"interrupted": False, "turn": None}
                await end_daemon(daemon, "kill")
        fake.set_default(replies("answered"))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                await raw_client.call("session.wait", {"session": waiting, "states": ["idle"]})
                assert client_messages(await session_log(raw_client, waiting)) == [
                    (1, "message", "interrupt"),
                    (1, "steer", "steer"),
                    (2, "message", "queue"),
                ]
                await raw_client.call("session.wait", {"session": busy, "states": ["idle"]})
                assert turn_endings(await session_log(raw_client, busy)) == [(1, "text_response")]


async def test_a_repeated_key_returns_the_first_result_after_a_restart(tmp_path: Path) -> None:
    async with home_with_provider(tmp_path) as (home, fake):
        behaviours = {
            "answer": replies("yes"),
            "error": responds_with(402),
            "interrupt": hangs("so"),
            "timeout": hangs("so"),
        }
        fake.choose = lambda received: behaviours.get(received.last_content)
        first: dict[str, Json] = {}
        sends = {
            content: {"content": content, "key": "k", "timeout_s": 0.3 if content == "timeout" else None}
            for content in behaviours
        }
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client, open_raw_client(daemon.socket) as other:
                for content, send in sends.items():
                    send["session"] = (await raw_client.call("session.create", create_params(content)))["result"][
                        "session"
                    ]
                    await raw_client.send_request("session.send", send)
                    await fake.wait_until(partial(is_model_asked, content))
                    if content == "interrupt":
                        await other.call("session.interrupt", {"session": send["session"]})
                    first[content] = (await raw_client.receive())["result"]
                await raw_client.call("session.close", {"session": sends["answer"]["session"]})
                await end_daemon(daemon, "kill")
        assert {content: result["stop_reason"] for content, result in first.items()} == {
            "answer": "text_response",
            "error": "error",
            "interrupt": "interrupted",
            "timeout": "interrupted",
        }
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                for content, send in sends.items():
                    assert (await raw_client.call("session.send", send))["result"] == first[content]
                    events, answer = await stream_turn(raw_client, send)
                    assert answer["result"] == first[content]
                    assert [event["seq"] for event in events] == [*range(2, first[content]["last_seq"] + 1)]
                    again = await raw_client.call("session.create", create_params(content))
                    assert again["result"]["session"] == send["session"]
        assert len(fake.requests) == len(behaviours)


def is_model_asked(content: str, fake: FakeProvider) -> bool:
    return any(received.last_content == content for received in fake.requests)


def create_params(content: str) -> Json:
    return {"agent": "walrus", "key": f"session for {content}"}


async def stream_turn(raw_client: RawClient, params: Json) -> tuple[list[Json], Json]:
    await raw_client.send_request("session.stream", params)
    return await raw_client.receive_events()


@pytest.mark.parametrize("how", ["interrupt", "message", "close"])
async def test_a_logged_interrupt_takes_effect_however_soon_the_daemon_is_killed(tmp_path: Path, how: str) -> None:
    """The kill follows the first interrupt event: by then some turns have `done`, some only the request."""
    sessions = range(1, 13)
    async with home_with_provider(tmp_path) as (home, fake):
        fake.set_default(hangs("so far"))
        interrupts: dict[str, tuple[str, Json]] = {
            "interrupt": ("session.interrupt", {}),
            "message": ("session.send", {"content": "rather this", "when_busy": "interrupt"}),
            "close": ("session.close", {"force": True}),
        }
        method, params = interrupts[how]
        with home.walrusd() as daemon:
            async with (
                open_raw_client(daemon.socket) as raw_client,
                open_raw_client(daemon.socket) as other,
                open_raw_client(daemon.socket) as watcher,
            ):
                for session in sessions:
                    assert await create_session(raw_client) == session
                    await other.send_request("session.send", {"session": session, "content": "go"}, id=session)
                await fake.wait_until(lambda fake: len(fake.requests) == len(sessions))
                await watcher.send_request("session.attach", {"session": 1, "since": 2})
                await raw_client.send(*(request(method, {"session": n, **params}, f"end {n}") for n in sessions))
                while (await watcher.receive())["params"]["event"]["type"] != "interrupt_requested":
                    pass
                await end_daemon(daemon, "kill")
        fake.set_default(replies("all the same"))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                requested = 0
                for session in sessions:
                    await raw_client.call("session.wait", {"session": session, "states": ["idle", "closed"]})
                    log = await session_log(raw_client, session)
                    logged = [event["type"] for event in log].count("interrupt_requested")
                    requested += logged
                    assert turn_endings(log)[0] == (1, "interrupted" if logged else "text_response")
                    later = how == "message" and bool(logged)
                    assert len(turn_endings(log)) == 1 + later
                    assert (log[-1]["type"] == "session_closed") == (how == "close" and bool(logged))
                assert requested


async def test_a_resumed_turn_can_be_interrupted_and_the_queue_behind_it_runs(
    tmp_path: Path,
) -> None:
    async with home_with_provider(tmp_path) as (home, fake):
        fake.choose = lambda received: replies("next it is") if received.last_content == "next" else hangs("so far")
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                session = await create_session(raw_client)
                await raw_client.send_request(
                    "session.send", {"session": session, "content": "go", "key": "k"}, id="go"
                )
                await send_queued(raw_client, session, "next")
                await fake.wait_until(lambda fake: len(fake.requests) == 1)
                await end_daemon(daemon, "kill")
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                await fake.wait_until(lambda fake: len(fake.requests) == 2)
                interrupted = await client.interrupt(SessionParams(session=session))
                assert interrupted == InterruptResult(interrupted=True, turn=1)
                first = await client.send(SendParams(session=session, content="go", key="k"))
                assert (first.turn, first.stop_reason) == (1, "interrupted")
                following = await client.send(SendParams(session=session, content="next", key="next"))
                assert (following.turn, following.text) == (2, "next it is")
                await fake.wait_until(lambda fake: fake.disconnects == 2)
        assert openai_violations(fake.requests[-1].messages) == []


async def test_an_interrupt_during_shutdown_leaves_the_queue_for_the_next_start(
    tmp_path: Path,
) -> None:
    async with home_with_provider(tmp_path) as (home, fake):
        home.write("walrus.toml", home.toml.read_text().replace("grace_s = 0.05", "grace_s = 600"))
        fake.enqueue(hangs("so far"))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client, open_raw_client(daemon.socket) as other:
                session = await create_session(raw_client)
                await raw_client.send_request(
                    "session.send", {"session": session, "content": "go", "key": "go"}, id="go"
                )
                await fake.wait_until(lambda fake: len(fake.requests) == 1)
                await send_queued(raw_client, session, "next")
                daemon.signal(signal.SIGTERM)
                await daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("stopping")))
                answer = await other.call("session.interrupt", {"session": session})
                assert answer["result"] == {"interrupted": True, "turn": 1}
                ended = {message["id"]: message for message in [await raw_client.receive() for _ in range(2)]}
                assert ended["go"]["result"]["stop_reason"] == "interrupted"
                assert ended["next"]["error"]["data"]["kind"] == "shutting_down"
                assert await trio.to_thread.run_sync(daemon.wait_exit) == 0
        fake.set_default(replies("answered"))
        with home.walrusd() as daemon:
            async with open_raw_client(daemon.socket) as raw_client:
                repeat = await raw_client.call("session.send", {"session": session, "content": "next", "key": "next"})
                assert (repeat["result"]["turn"], repeat["result"]["text"]) == (2, "answered")
