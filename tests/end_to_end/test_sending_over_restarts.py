"""What was sent, keyed and interrupted before walrusd went down holds when it is back, were it stopped or killed."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.fakes.home import PATIENCE_S, Home, Walrusd
from tests.fakes.provider import FakeProvider, hangs, open_provider, refuses, says
from tests.fakes.validators import openai_complaints
from tests.rpc.raw import Json, Raw, raw, request
from walrus_protocol.aclient import connect
from walrus_protocol.methods import Interrupted, SendParams, SessionParams

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
async def speaking(
    path: Path, *, on_restart: str = "continue", slots: int = 64
) -> AsyncIterator[tuple[Home, FakeProvider]]:
    with trio.fail_after(3 * PATIENCE_S):
        async with open_provider() as fake:
            yield Home(path / "home", TOML.format(url=fake.url, on_restart=on_restart, slots=slots)), fake


async def end(daemon: Walrusd, how: str) -> None:
    if how == "kill":
        await trio.to_thread.run_sync(daemon.kill)
    else:
        daemon.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(daemon.ended) == 0


async def created(line: Raw) -> int:
    session: int = (await line.call("session.create", {"agent": "walrus"}))["result"]["session"]
    return session


async def log_of(line: Raw, session: int) -> list[Json]:
    await line.ask("session.attach", {"session": session, "follow": False}, id="log")
    return (await line.events())[0]


async def wait_in_line(line: Raw, session: int, content: str, when_busy: str = "queue") -> None:
    """Send what has to wait, and see that it does. Its key is its content."""
    params = {"session": session, "content": content, "key": content, "when_busy": when_busy}
    await line.ask("session.stream", params, id=content)
    message = await line.receive()
    assert (message["params"]["request"], message["params"]["event"]["type"]) == (content, "message_queued")


def heard(log: list[Json]) -> list[tuple[int, str, str]]:
    """What clients have said: the turn, the kind, the words."""
    messages = [event for event in log if event["type"] == "user_message" and event["kind"] != "resume"]
    return [(message["turn"], message["kind"], message["content"]) for message in messages]


def ends(log: list[Json]) -> list[tuple[int, str]]:
    return [(event["turn"], event["stop_reason"]) for event in log if event["type"] == "done"]


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize(
    ("on_restart", "turns"),
    [
        ("continue", [(1, "message", "go"), (1, "steer", "s1"), (1, "steer", "s2"), (2, "message", "q1")]),
        ("close", [(1, "message", "go"), (2, "message", "q1"), (2, "steer", "s1"), (2, "steer", "s2")]),
    ],
)
async def test_what_waits_is_heard_after_a_restart_in_its_order_and_as_it_was_meant(
    tmp_path: Path, on_restart: str, turns: list[tuple[int, str, str]], how: str
) -> None:
    sends = [("q1", "queue"), ("s1", "steer"), ("q2", "queue"), ("s2", "steer")]
    async with speaking(tmp_path, on_restart=on_restart) as (home, fake):
        fake.will(hangs("so far"))
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line:
                session = await created(line)
                await line.ask("session.send", {"session": session, "content": "go"}, id="go")
                await fake.until(lambda fake: len(fake.requests) == 1)
                for content, mode in sends:
                    await wait_in_line(line, session, content, mode)
                await end(daemon, how)
        fake.always(says("answered"))
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line:
                results = {}
                for content, _ in sends:  # a repeat waits for the first, whose client is gone
                    params = {"session": session, "content": content, "key": content}
                    results[content] = (await line.call("session.send", params))["result"]
                log = await log_of(line, session)
        assert heard(log) == [*turns, (3, "message", "q2")]
        assert {content: result["turn"] for content, result in results.items()} == {
            content: turn for turn, _, content in heard(log)[1:]
        }
        first = "text_response" if on_restart == "continue" else "interrupted"
        assert ends(log) == [(1, first), (2, "text_response"), (3, "text_response")]
        assert [openai_complaints(asked.messages) for asked in fake.requests] == [[]] * len(fake.requests)


async def test_a_message_that_waits_for_a_slot_is_no_turn_yet_and_keeps_its_place_over_a_kill(tmp_path: Path) -> None:
    async with speaking(tmp_path, slots=1) as (home, fake):
        fake.will(hangs("so far"))
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line:
                busy, waiting = await created(line), await created(line)
                await line.ask("session.send", {"session": busy, "content": "long"}, id="long")
                await fake.until(lambda fake: len(fake.requests) == 1)
                for mode in ("queue", "steer", "interrupt"):
                    await wait_in_line(line, waiting, mode, mode)
                rejected = {"session": waiting, "content": "x", "when_busy": "reject"}
                refused = await line.call("session.send", rejected, id="reject")
                assert refused["error"]["data"]["kind"] == "session_busy"
                answer = await line.call("session.interrupt", {"session": waiting}, id="interrupt it")
                assert answer["result"] == {"interrupted": False, "turn": None}
                await end(daemon, "kill")
        fake.always(says("answered"))
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line:
                await line.call("session.wait", {"session": waiting, "states": ["idle"]})
                assert heard(await log_of(line, waiting)) == [
                    (1, "message", "interrupt"),
                    (1, "steer", "steer"),
                    (2, "message", "queue"),
                ]
                await line.call("session.wait", {"session": busy, "states": ["idle"]})
                assert ends(await log_of(line, busy)) == [(1, "text_response")]


async def test_every_ending_is_told_again_after_a_restart_and_a_session_is_still_created_once(tmp_path: Path) -> None:
    async with speaking(tmp_path) as (home, fake):
        behaviours = {"answer": says("yes"), "error": refuses(402), "interrupt": hangs("so"), "timeout": hangs("so")}
        fake.choose = lambda asked: behaviours.get(asked.last)
        first: dict[str, Json] = {}
        sends = {
            content: {"content": content, "key": "k", "timeout_s": 0.3 if content == "timeout" else None}
            for content in behaviours
        }
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line, raw(daemon.socket) as other:
                for content, send in sends.items():
                    send["session"] = (await line.call("session.create", create(content)))["result"]["session"]
                    await line.ask("session.send", send)
                    await fake.until(partial(was_asked, content))
                    if content == "interrupt":
                        await other.call("session.interrupt", {"session": send["session"]})
                    first[content] = (await line.receive())["result"]
                await line.call("session.close", {"session": sends["answer"]["session"]})
                await end(daemon, "kill")
        assert {content: result["stop_reason"] for content, result in first.items()} == {
            "answer": "text_response",
            "error": "error",
            "interrupt": "interrupted",
            "timeout": "interrupted",
        }
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line:
                for content, send in sends.items():
                    assert (await line.call("session.send", send))["result"] == first[content]
                    events, answer = await streamed(line, send)
                    assert answer["result"] == first[content]
                    assert [event["seq"] for event in events] == [*range(2, first[content]["last_seq"] + 1)]
                    again = await line.call("session.create", create(content))
                    assert again["result"]["session"] == send["session"]
        assert len(fake.requests) == len(behaviours)


def was_asked(content: str, fake: FakeProvider) -> bool:
    return any(asked.last == content for asked in fake.requests)


def create(content: str) -> Json:
    return {"agent": "walrus", "key": f"session for {content}"}


async def streamed(line: Raw, params: Json) -> tuple[list[Json], Json]:
    await line.ask("session.stream", params)
    return await line.events()


@pytest.mark.parametrize("how", ["interrupt", "message", "close"])
async def test_an_interrupt_that_was_asked_for_sticks_however_soon_the_kill_comes(tmp_path: Path, how: str) -> None:
    """Killed when the first is seen in the log: some have their `done` by then, some only the request."""
    sessions = range(1, 13)
    async with speaking(tmp_path) as (home, fake):
        fake.always(hangs("so far"))
        asking: dict[str, tuple[str, Json]] = {
            "interrupt": ("session.interrupt", {}),
            "message": ("session.send", {"content": "rather this", "when_busy": "interrupt"}),
            "close": ("session.close", {"force": True}),
        }
        method, params = asking[how]
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line, raw(daemon.socket) as other, raw(daemon.socket) as watching:
                for session in sessions:
                    assert await created(line) == session
                    await other.ask("session.send", {"session": session, "content": "go"}, id=session)
                await fake.until(lambda fake: len(fake.requests) == len(sessions))
                await watching.ask("session.attach", {"session": 1, "since": 2})
                await line.send(*(request(method, {"session": n, **params}, f"end {n}") for n in sessions))
                while (await watching.receive())["params"]["event"]["type"] != "interrupt_requested":
                    pass
                await end(daemon, "kill")
        fake.always(says("all the same"))
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line:
                requested = 0
                for session in sessions:
                    await line.call("session.wait", {"session": session, "states": ["idle", "closed"]})
                    log = await log_of(line, session)
                    asked = [event["type"] for event in log].count("interrupt_requested")
                    requested += asked
                    assert ends(log)[0] == (1, "interrupted" if asked else "text_response")
                    later = how == "message" and bool(asked)
                    assert len(ends(log)) == 1 + later
                    assert (log[-1]["type"] == "session_closed") == (how == "close" and bool(asked))
                assert requested


async def test_a_turn_that_goes_on_after_a_restart_can_be_interrupted_and_what_waits_behind_it_runs(
    tmp_path: Path,
) -> None:
    async with speaking(tmp_path) as (home, fake):
        fake.choose = lambda asked: says("next it is") if asked.last == "next" else hangs("so far")
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line:
                session = await created(line)
                await line.ask("session.send", {"session": session, "content": "go", "key": "k"}, id="go")
                await wait_in_line(line, session, "next")
                await fake.until(lambda fake: len(fake.requests) == 1)
                await end(daemon, "kill")
        with home.walrusd() as daemon:
            async with connect(daemon.socket) as client:
                await fake.until(lambda fake: len(fake.requests) == 2)
                interrupted = await client.interrupt(SessionParams(session=session))
                assert interrupted == Interrupted(interrupted=True, turn=1)
                first = await client.send(SendParams(session=session, content="go", key="k"))
                assert (first.turn, first.stop_reason) == (1, "interrupted")
                following = await client.send(SendParams(session=session, content="next", key="next"))
                assert (following.turn, following.text) == (2, "next it is")
                await fake.until(lambda fake: fake.gone == 2)
        assert openai_complaints(fake.requests[-1].messages) == []


async def test_while_walrusd_stops_a_turn_can_be_interrupted_and_what_waits_is_left_for_the_next_start(
    tmp_path: Path,
) -> None:
    async with speaking(tmp_path) as (home, fake):
        home.write("walrus.toml", home.toml.read_text().replace("grace_s = 0.05", "grace_s = 600"))
        fake.will(hangs("so far"))
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line, raw(daemon.socket) as other:
                session = await created(line)
                await line.ask("session.send", {"session": session, "content": "go", "key": "go"}, id="go")
                await fake.until(lambda fake: len(fake.requests) == 1)
                await wait_in_line(line, session, "next")
                daemon.signal(signal.SIGTERM)
                await daemon.until(lambda daemon: bool(daemon.lines("stopping")))
                answer = await other.call("session.interrupt", {"session": session})
                assert answer["result"] == {"interrupted": True, "turn": 1}
                ended = {message["id"]: message for message in [await line.receive() for _ in range(2)]}
                assert ended["go"]["result"]["stop_reason"] == "interrupted"
                assert ended["next"]["error"]["data"]["kind"] == "shutting_down"
                assert await trio.to_thread.run_sync(daemon.ended) == 0
        fake.always(says("answered"))
        with home.walrusd() as daemon:
            async with raw(daemon.socket) as line:
                repeat = await line.call("session.send", {"session": session, "content": "next", "key": "next"})
                assert (repeat["result"]["turn"], repeat["result"]["text"]) == (2, "answered")
