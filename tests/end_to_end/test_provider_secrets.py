"""Tests that no secret sent to a provider comes back in an error: not to the client, to the disk, or to the log."""

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from tests.fakes.home import MAX_WAIT_S, Home
from tests.fakes.provider import (
    Behaviour,
    Exchange,
    open_provider,
    replies,
    responds_with,
    sends_bytes,
    sends_garbage,
    streams_events,
)
from walrus_protocol.async_client import connect
from walrus_protocol.methods import CreateParams, SendParams

MARK = "zq7"
"""Begins every secret below, so that a part of a secret is found too, however it is escaped."""
BASIC = base64.b64encode(f"{MARK}user:{MARK}pass".encode()).decode()
TOML = f"""
[daemon]
shutdown_grace_s = 0.1
log_level = "debug"
[defaults]
model = "fake"
[providers.fake]
kind = "openai"
base_url = "{{url}}"
models = ["fake"]
max_retries = 0

[providers.fake.headers]
Authorization = "Bearer {MARK}-tok-123"
X-Session = "{MARK}session"
X-Route = 'Team {MARK}"a\\b/c+d&e'
X-Proxy = "Basic {BASIC}"
X-Jar = "theme={MARK}theme1; id={MARK}id001"
"""


def quotes_headers(make: Callable[[Sequence[str]], Behaviour]) -> Behaviour:
    """Answers with what `make` builds from the values of the request's own headers and the words in them."""

    async def behave(exchange: Exchange) -> None:
        values = [exchange.request.headers[f"x-{name}"] for name in ("session", "route", "proxy", "jar")]
        values.append(exchange.request.headers["authorization"])
        words = [word for value in values for word in value.split()]
        fields = [word.rstrip(";").partition("=")[2] for word in values[3].split()]
        await make([*values, *words, *fields, f"{MARK}user:{MARK}pass", f"{MARK}pass"])(exchange)

    return behave


def quotes_each(make: Callable[[str], Behaviour]) -> list[Behaviour]:
    """Returns one behaviour for each value that `quotes_headers` finds."""
    return [quotes_headers(lambda found, index=index: make(found[index])) for index in range(15)]  # type: ignore[misc]


def sends_text(status: int, pieces: Sequence[bytes]) -> Behaviour:
    """Answers in plain text, each piece in a chunk of its own."""

    async def behave(exchange: Exchange) -> None:
        head = f"HTTP/1.1 {status} So\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        await exchange.send(head.encode())
        for piece in pieces:
            await exchange.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            await trio.sleep(0.01)
        await exchange.send(b"0\r\n\r\n")

    return behave


def as_html(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")


BEHAVIOURS: list[Behaviour] = [
    quotes_headers(lambda found: responds_with(401, {"error": {"message": " ".join(found)}})),
    quotes_headers(lambda found: responds_with(422, {"detail": [{"msg": text} for text in found]})),
    quotes_headers(lambda found: responds_with(400, {"error": {"message": json.dumps({"raw": json.dumps(found)})}})),
    quotes_headers(lambda found: responds_with(503, " ".join(found).encode())),
    quotes_headers(lambda found: responds_with(400, as_html(" ".join(found)).encode())),
    quotes_headers(lambda found: responds_with(400, json.dumps(found).replace("/", "\\/").encode()[:-1])),
    quotes_headers(lambda found: responds_with(200, {"hello": found})),
    quotes_headers(lambda found: streams_events({"error": {"message": " ".join(found)}})),
    quotes_headers(lambda found: streams_events({"error": found})),
    quotes_headers(lambda found: streams_events(b"{" + " ".join(found).encode())),
    *quotes_each(lambda text: sends_text(200, [f"Hm {text[:-2]}".encode(), text[-2:].encode()])),
    *quotes_each(lambda text: responds_with(400, {"error": {"message": "x" * (499 - len(text) // 2) + text}})),
    *quotes_each(lambda text: responds_with(400, b" " * (64 * 1024 - len(text) + 1) + text.encode() + b" and so on")),
    *quotes_each(lambda text: responds_with(301, b"", {"Location": f"http://127.0.0.1:{text}/"})),
    *quotes_each(lambda text: responds_with(301, b"", {"Location": f"/{text}"})),
    *quotes_each(lambda text: sends_bytes(f"HTTP/1.1 401 {text}\r\nContent-Length: 0\r\n\r\n".encode())),
    *quotes_each(lambda text: sends_garbage(f"HTTP/1.1 {text}\r\n\r\n".encode())),
    *quotes_each(lambda text: sends_garbage(f"HTTP/1.1 200 So\r\nContent-Length: {text}\r\n\r\n".encode())),
]


async def test_no_error_of_a_provider_contains_a_header_that_was_sent_to_it(tmp_path: Path) -> None:
    with trio.fail_after(3 * MAX_WAIT_S):
        async with open_provider() as fake:
            home = Home(tmp_path / "home", TOML.format(url=fake.url))
            with home.walrusd() as daemon:
                async with connect(daemon.socket) as client:
                    session = (await client.create(CreateParams(agent="walrus"))).session
                    for number, behaviour in enumerate(BEHAVIOURS):
                        fake.set_default(behaviour)
                        turn = await client.send(SendParams(session=session, content="hi"))
                        assert turn.error is not None, number
                        assert MARK not in repr(turn), f"{number}: {turn.error}"
                        assert BASIC[:6] not in repr(turn), f"{number}: {turn.error}"
                    assert fake.requests[0].headers["authorization"] == f"Bearer {MARK}-tok-123"
                check_files(home)
            check_files(home)
        assert MARK not in daemon.stderr


def check_files(home: Home) -> None:
    """Checks the bytes of every file; called before the database is closed and after, so the WAL is read too."""
    for path in home.path.rglob("*"):
        if path.is_file() and path != home.toml:
            data = path.read_bytes()
            assert MARK.encode() not in data, path
            assert BASIC[:6].encode() not in data, path


async def test_an_error_that_names_a_key_of_another_provider_is_recorded_without_it(tmp_path: Path) -> None:
    """A gateway that passes requests on may quote a key that this daemon sends to another provider."""
    other = f'[providers.other]\nkind = "openai"\nbase_url = "http://127.0.0.1:1/v1"\napi_key = "{MARK}-other"\n'
    async with open_provider() as fake:
        home = Home(tmp_path / "home", TOML.format(url=fake.url) + other)
        with home.walrusd() as daemon, trio.fail_after(MAX_WAIT_S):
            async with connect(daemon.socket) as client:
                session = (await client.create(CreateParams(agent="walrus"))).session
                fake.enqueue(responds_with(401, {"error": {"message": f"not {MARK}-other"}}), replies("ok"))
                turn = await client.send(SendParams(session=session, content="hi"))
                assert turn.error is not None
                assert turn.error.message.endswith(" answered 401: not ***")
        check_files(home)
