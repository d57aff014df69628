"""A provider that fails, through the whole daemon: the turn ends in error and says why, the session goes on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.fakes.home import PATIENCE_S, Home, Walrusd
from tests.fakes.provider import (
    Behaviour,
    FakeProvider,
    calls,
    cuts,
    garbage,
    hangs,
    open_provider,
    refuses,
    says,
    streams,
)
from walrus_protocol.aclient import Client, connect
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
async def provided(
    path: Path, *, retries: int = 0, model: str = "fake"
) -> AsyncIterator[tuple[FakeProvider, Walrusd, Client]]:
    with trio.fail_after(PATIENCE_S):
        async with open_provider() as fake:
            home = Home(path / "home", TOML.format(url=fake.url, retries=retries, model=model))
            with home.walrusd(environ={"FAKE_KEY": KEY, "FAKE_HEADER": HEADER}) as daemon:
                async with connect(daemon.socket) as client:
                    yield fake, daemon, client


FAILURES: list[tuple[str, Behaviour, TurnErrorKind, str]] = [
    ("a wrong key", refuses(401), "provider_auth", ""),
    ("too many requests", refuses(429), "provider_rate_limited", ""),
    ("no more money", refuses(429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "provider_quota", ""),
    ("its own fault", refuses(500), "provider_overloaded", ""),
    ("a page of HTML", refuses(502, b"<html>Bad gateway</html>"), "provider_overloaded", ""),
    ("no such model", refuses(404), "model_not_found", ""),
    ("silence", hangs(), "provider_timeout", ""),
    ("silence after some words", hangs("I was"), "provider_timeout", "I was"),
    ("a closed connection", cuts(), "provider_network", ""),
    ("a stream that is cut", cuts("I was"), "provider_network", "I was"),
    ("no HTTP", garbage(), "provider_bad_response", ""),
    ("a stream of garbage", streams(b"{not json"), "provider_bad_response", ""),
    ("a stream that ends with nothing said", streams(done=False), "provider_network", ""),
    ("an error in mid-stream", streams({"error": {"message": "down", "code": 503}}), "provider_overloaded", ""),
    ("HTML with a 200", refuses(200, b"<html>Log in</html>"), "provider_bad_response", ""),
]


async def test_however_a_provider_fails_the_turn_says_so_and_the_session_takes_the_next_message(
    tmp_path: Path,
) -> None:
    async with provided(tmp_path) as (fake, daemon, client):
        for what, failure, kind, said in FAILURES:
            session = (await client.create(CreateParams(agent="walrus"))).session
            fake.will(failure, says("better"))
            turn = await client.send(SendParams(session=session, content="hi"))
            assert turn.stop_reason == "error", what
            assert turn.error is not None
            assert turn.error.kind == kind, f"{what}: {turn.error}"
            assert turn.error.message, what
            assert turn.error.hint, what
            assert (await client.send(SendParams(session=session, content="again"))).text == "better", what
            history = (await client.history(HistoryParams(session=session))).messages
            kept = (Assistant(content=said),) if said else ()
            assert history == (User("hi"), *kept, User("again"), Assistant(content="better")), what
        await daemon.until(lambda daemon: len(daemon.lines("turn")) == 2 * len(FAILURES))
        assert [line["error"] for line in daemon.lines("turn")] == [
            kind for _, _, failed, _ in FAILURES for kind in (failed, None)
        ]


async def test_a_provider_that_asks_to_wait_is_asked_again_and_nobody_notices(tmp_path: Path) -> None:
    async with provided(tmp_path, retries=2) as (fake, daemon, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.will(refuses(503), says("here I am"))
        turn = await client.send(SendParams(session=session, content="hi"))
        assert (turn.text, turn.stop_reason, turn.rounds) == ("here I am", "text_response", 1)
        assert len(fake.requests) == 2
        await daemon.until(lambda daemon: bool(daemon.lines("turn")))
        assert [line["kind"] for line in daemon.lines("provider_retry")] == ["provider_overloaded"]


async def test_a_wait_that_a_provider_has_asked_for_ends_with_its_turn(tmp_path: Path) -> None:
    async with provided(tmp_path, retries=2) as (fake, daemon, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.will(refuses(429, headers={"Retry-After": "25"}), says("here I am"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, SendParams(session=session, content="hi"))
            await daemon.until(lambda daemon: bool(daemon.lines("provider_retry")))
            assert (await client.interrupt(SessionParams(session=session))).interrupted
        assert len(fake.requests) == 1
        assert (await client.send(SendParams(session=session, content="well?"))).text == "here I am"


async def test_nothing_is_asked_twice_once_a_word_was_said(tmp_path: Path) -> None:
    async with provided(tmp_path, retries=2) as (fake, _, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.will(cuts("I was"))
        turn = await client.send(SendParams(session=session, content="hi"))
        assert (turn.stop_reason, turn.error and turn.error.kind) == ("error", "provider_network")
        assert len(fake.requests) == 1


async def test_a_provider_that_is_not_there_is_named_with_its_address(tmp_path: Path) -> None:
    async with provided(tmp_path) as (fake, _, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.will(refuses(401))
        turn = await client.send(SendParams(session=session, content="hi"))
        assert turn.error is not None
        assert f"127.0.0.1:{fake.port}" in turn.error.message
        assert "[providers.fake]" in turn.error.hint


async def test_no_secret_is_in_any_log_event_error_or_answer(tmp_path: Path) -> None:
    leaks = {"error": {"message": f"Incorrect API key: {KEY}, and {HEADER}", "code": "invalid_api_key"}}
    async with provided(tmp_path) as (fake, daemon, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.will(refuses(401, leaks), streams(leaks), calls(("read", {"path": "../walrus.toml"})), says("no"))
        for _ in range(3):
            await client.send(SendParams(session=session, content="hi"))
        await daemon.until(lambda daemon: len(daemon.lines("turn")) == 3)
        assert fake.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert fake.requests[0].headers["x-secret"] == HEADER
        async with client.attach(AttachParams(session=session, follow=False)) as events:
            seen: list[object] = [event async for event in events]
        seen += [
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
            assert secret not in repr(seen)
        assert "***" in repr(seen)
        for path in (tmp_path / "home").iterdir():
            if path.is_file():
                assert KEY.encode() not in path.read_bytes(), path


async def test_a_model_that_its_provider_has_never_heard_of_is_told_at_the_turn(tmp_path: Path) -> None:
    async with provided(tmp_path, model="fake/there-is-none") as (fake, _, client):
        session = (await client.create(CreateParams(agent="walrus"))).session
        fake.will(refuses(404, {"error": {"message": "no such model", "code": "model_not_found"}}))
        turn = await client.send(SendParams(session=session, content="hi"))
        assert (turn.error and turn.error.kind) == "model_not_found"
        assert fake.requests[0].body["model"] == "there-is-none"
