"""Tests of failing providers in a real daemon.

The turn ends with an error and its reason, and the session continues.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.fakes.home import MAX_WAIT_S, Home, WalrusdProcess
from tests.fakes.provider import (
    Behaviour,
    FakeProvider,
    calls_tools,
    cuts_connection,
    hangs,
    open_provider,
    replies,
    responds_with,
    sends_garbage,
    streams_events,
)
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.content import Assistant, TurnErrorKind, User
from walrus_protocol.methods import (
    AgentParams,
    AttachParams,
    CreateParams,
    HistoryParams,
    SendParams,
    SessionParams,
)

KEY = "sk-this-is-the-key-42"
HEADER = "header-secret-43"

TOML = """
[daemon]
shutdown_grace_s = 0.1
log_level = "debug"
[defaults]
model = "{model}"
max_iterations = 3
[providers.fake]
kind = "openai"
base_url = "{url}"
api_key = "${{FAKE_KEY}}"
headers = {{ X-Secret = "${{FAKE_HEADER}}" }}
models = ["fake"]
max_retries = {retries}
idle_timeout_s = 0.2
[permissions]
allow = ["read"]
"""


@asynccontextmanager
async def open_daemon_with_provider(
    path: Path, *, retries: int = 0, model: str = "fake"
) -> AsyncIterator[tuple[FakeProvider, WalrusdProcess, AsyncClient]]:
    with trio.fail_after(MAX_WAIT_S):
        async with open_provider() as fake:
            home = Home(path / "home", TOML.format(url=fake.url, retries=retries, model=model))
            with home.walrusd(environ={"FAKE_KEY": KEY, "FAKE_HEADER": HEADER}) as daemon:
                async with connect(daemon.socket) as client:
                    yield fake, daemon, client


FAILURES: list[tuple[str, Behaviour, TurnErrorKind, str]] = [
    ("a wrong key", responds_with(401), "provider_auth", ""),
    ("too many requests", responds_with(429), "provider_rate_limited", ""),
    (
        "no more money",
        responds_with(429, {"error": {"message": "pay", "code": "insufficient_quota"}}),
        "provider_quota",
        "",
    ),
    ("its own fault", responds_with(500), "provider_overloaded", ""),
    ("a page of HTML", responds_with(502, b"<html>Bad gateway</html>"), "provider_overloaded", ""),
    ("no such model", responds_with(404), "model_not_found", ""),
    ("silence", hangs(), "provider_timeout", ""),
    ("silence after a partial reply", hangs("I was"), "provider_timeout", "I was"),
    ("a closed connection", cuts_connection(), "provider_network", ""),
    ("a stream that is cut", cuts_connection("I was"), "provider_network", "I was"),
    ("no HTTP", sends_garbage(), "provider_bad_response", ""),
    ("a stream of garbage", streams_events(b"{not json"), "provider_bad_response", ""),
    ("a stream that ends without content", streams_events(done=False), "provider_network", ""),
    ("an error in mid-stream", streams_events({"error": {"message": "down", "code": 503}}), "provider_overloaded", ""),
    ("HTML with a 200", responds_with(200, b"<html>Log in</html>"), "provider_bad_response", ""),
]


async def test_every_provider_failure_is_reported_by_the_turn_and_the_session_continues(
    tmp_path: Path,
) -> None:
    async with open_daemon_with_provider(tmp_path) as (fake, daemon, client):
        for what, failure, kind, text in FAILURES:
            session = (await client.create(CreateParams(agent="walrus"))).session
            fake.enqueue(failure, replies("better"))
            turn = await client.send(SendParams(session=session, content="hi"))
            assert turn.stop_reason == "error", what
            assert turn.error is not None
            assert turn.error.kind == kind, f"{what}: {turn.error}"
            assert turn.error.message, what
            assert turn.error.hint, what
            assert (await client.send(SendParams(session=session, content="again"))).text == "better", what
            history = (await client.history(HistoryParams(session=session))).messages
            partial_reply = (Assistant(content=text),) if text else ()
            assert history == (User("hi"), *partial_reply, User("again"), Assistant(content="better")), what
        await daemon.wait_for_async(lambda daemon: len(daemon.lines_of("turn")) == 2 * len(FAILURES))
        assert [line["error"] for line in daemon.lines_of("turn")] == [
            kind for _, _, failed, _ in FAILURES for kind in (failed, None)
        ]


async def test_an_overloaded_provider_is_retried_without_an_error_for_the_client(tmp_path: Path) -> None:
    async with open_daemon_with_provider(tmp_path, retries=2) as (fake, daemon, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.enqueue(responds_with(503), replies("here I am"))
        turn = await client.send(SendParams(session=session, content="hi"))
        assert (turn.text, turn.stop_reason, turn.rounds) == ("here I am", "text_response", 1)
        assert len(fake.requests) == 2
        await daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("turn")))
        (line,) = daemon.lines_of("provider_retry")
        assert (line["provider"], line["kind"], line["purpose"]) == ("fake", "provider_overloaded", "turn")


async def test_an_interrupt_ends_the_wait_for_a_retry(tmp_path: Path) -> None:
    async with open_daemon_with_provider(tmp_path, retries=2) as (fake, daemon, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.enqueue(responds_with(429, headers={"Retry-After": "25"}), replies("here I am"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, SendParams(session=session, content="hi"))
            await daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("provider_retry")))
            assert (await client.interrupt(SessionParams(session=session))).interrupted
        assert len(fake.requests) == 1
        assert (await client.send(SendParams(session=session, content="well?"))).text == "here I am"


async def test_nothing_is_retried_after_the_first_chunk_of_a_reply(tmp_path: Path) -> None:
    async with open_daemon_with_provider(tmp_path, retries=2) as (fake, _, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.enqueue(cuts_connection("I was"))
        turn = await client.send(SendParams(session=session, content="hi"))
        assert (turn.stop_reason, turn.error and turn.error.kind) == ("error", "provider_network")
        assert len(fake.requests) == 1


async def test_an_error_names_the_provider_and_its_address(tmp_path: Path) -> None:
    async with open_daemon_with_provider(tmp_path) as (fake, _, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.enqueue(responds_with(401))
        turn = await client.send(SendParams(session=session, content="hi"))
        assert turn.error is not None
        assert f"127.0.0.1:{fake.port}" in turn.error.message
        assert "[providers.fake]" in turn.error.hint


async def test_no_secret_is_in_any_log_line_event_error_or_answer(tmp_path: Path) -> None:
    leaks = {"error": {"message": f"Incorrect API key: {KEY}, and {HEADER}", "code": "invalid_api_key"}}
    async with open_daemon_with_provider(tmp_path) as (fake, daemon, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.enqueue(
            responds_with(401, leaks),
            streams_events(leaks),
            calls_tools(("read", {"path": "../walrus.toml"})),
            replies("no"),
        )
        for _ in range(3):
            await client.send(SendParams(session=session, content="hi"))
        await daemon.wait_for_async(lambda daemon: len(daemon.lines_of("turn")) == 3)
        assert fake.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert fake.requests[0].headers["x-secret"] == HEADER
        async with client.attach(AttachParams(session=session, follow=False)) as events:
            outputs: list[object] = [event async for event in events]
        outputs += [
            await client.config(),
            await client.check_config(),
            await client.status(),
            await client.agents(),
            await client.agent(AgentParams(agent="walrus")),
            await client.history(HistoryParams(session=session)),
            [request.body for request in fake.requests],
            daemon.stderr,
        ]
        for secret in (KEY, HEADER):
            assert secret not in repr(outputs)
        assert "***" in repr(outputs)
        for path in (tmp_path / "home").iterdir():
            if path.is_file():
                for secret in (KEY, HEADER):
                    assert secret.encode() not in path.read_bytes(), path


async def test_a_model_unknown_to_its_provider_is_reported_by_the_turn(tmp_path: Path) -> None:
    async with open_daemon_with_provider(tmp_path, model="fake/there-is-none") as (fake, _, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.enqueue(responds_with(404, {"error": {"message": "no such model", "code": "model_not_found"}}))
        turn = await client.send(SendParams(session=session, content="hi"))
        assert (turn.error and turn.error.kind) == "model_not_found"
        assert fake.requests[0].body["model"] == "there-is-none"
