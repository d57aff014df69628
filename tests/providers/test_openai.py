"""Tests of exchanges with an OpenAI-compatible server over real HTTP, and of every way they fail."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes.models import open_models_with_spawner
from tests.fakes.provider import (
    STREAM_HEAD,
    Behaviour,
    Exchange,
    FakeProvider,
    calls_tools,
    cuts_connection,
    hangs,
    open_provider,
    replies,
    replies_unstreamed,
    responds_with,
    sends_bytes,
    sends_garbage,
    streams_events,
)
from walrus_config.schema import ModelSettings, ProviderSettings, Secret
from walrus_protocol.content import ToolCall, TurnErrorKind, Usage, User
from walrusd.ports import ModelFailed, ModelRequest, Reply, ReplyChunk, TextChunk
from walrusd.providers.registry import Models
from walrusd.session.conversation import ConversationView

KEY = "sk-very-secret-0123456789"


def request_of(text: str = "hi", model: str = "m") -> ModelRequest:
    return ModelRequest(purpose="turn", model=model, system="", history=ConversationView([User(text)]))


@asynccontextmanager
async def provider(**settings: Any) -> AsyncIterator[tuple[FakeProvider, Models]]:
    """Yields a fake server and the models of a daemon in which it is configured as "fake"."""
    async with open_provider() as fake:
        table = ProviderSettings(
            kind="openai", models=("m",), **{"base_url": fake.url, "api_key": Secret(KEY), "max_retries": 0, **settings}
        )
        async with open_models_with_spawner({"fake": table}, {}) as models:
            yield fake, models


async def failure(models: Models) -> ModelFailed:
    with pytest.raises(ModelFailed) as failed:
        await models.reply(request_of(), list[ReplyChunk]().append)
    return failed.value


async def test_a_reply_is_streamed_in_chunks_and_returned_whole() -> None:
    async with provider() as (fake, models):
        first, second = trio.Event(), trio.Event()
        fake.enqueue(replies(["Hel", "lo"], gate=(first, second)))
        chunks = list[ReplyChunk]()

        def on_chunk(chunk: ReplyChunk) -> None:
            chunks.append(chunk)
            second.set()  # the second chunk is sent only after the first was received

        first.set()
        reply = await models.reply(request_of(), on_chunk)
    assert chunks == [TextChunk("Hel"), TextChunk("lo")]
    assert reply == Reply(content="Hello", model="m", provider="fake", usage=Usage(input=10, output=5))


async def test_a_request_carries_the_key_the_headers_and_the_body() -> None:
    async with provider(headers={"X-Title": Secret("walrus")}) as (fake, models):
        fake.enqueue(replies("ok"))
        await models.reply(request_of("hello"), list[ReplyChunk]().append)
        (request,) = fake.requests
    assert request.path == "/v1/chat/completions"
    assert (request.headers["authorization"], request.headers["x-title"]) == (f"Bearer {KEY}", "walrus")
    assert request.body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hello"}],
    }


async def test_tool_calls_arrive_with_their_arguments() -> None:
    async with provider() as (fake, models):
        fake.enqueue(calls_tools(("read", {"path": "a"}), ("read", '{"path"'), text="Look:"))
        reply = await models.reply(request_of(), list[ReplyChunk]().append)
    assert reply.calls == (ToolCall("call_read_0", "read", {"path": "a"}), ToolCall("call_read_1", "read", '{"path"'))
    assert (reply.content, reply.finish) == ("Look:", "tool_calls")


async def test_the_reply_of_a_server_that_does_not_stream_is_accepted() -> None:
    async with provider() as (fake, models):
        fake.enqueue(replies_unstreamed({"role": "assistant", "content": "whole"}))
        chunks = list[ReplyChunk]()
        reply = await models.reply(request_of(), chunks.append)
    assert chunks == [TextChunk("whole")]
    assert (reply.content, reply.usage) == ("whole", Usage(input=10, output=5))


async def test_one_connection_is_reused_for_successive_requests() -> None:
    async with provider() as (fake, models):
        fake.set_default(replies("ok"))
        for _ in range(5):
            await models.reply(request_of(), list[ReplyChunk]().append)
        assert (len(fake.requests), fake.connections) == (5, 1)


def error_body(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


TRUNCATED_STREAM = STREAM_HEAD + b'99\r\ndata: {"choices": [{"delta": {"content": "a"}}]}\n\n'
FAILURES: list[tuple[str, Behaviour, TurnErrorKind]] = [
    ("401", responds_with(401), "provider_auth"),
    ("403", responds_with(403), "provider_auth"),
    ("402", responds_with(402), "provider_quota"),
    ("429", responds_with(429), "provider_rate_limited"),
    ("429 that is a quota", responds_with(429, error_body("Pay.", code="insufficient_quota")), "provider_quota"),
    ("500", responds_with(500), "provider_overloaded"),
    ("502 in HTML", responds_with(502, b"<html>Bad Gateway", {"Content-Type": "text/html"}), "provider_overloaded"),
    ("503", responds_with(503), "provider_overloaded"),
    ("504", responds_with(504), "provider_timeout"),
    ("529", responds_with(529), "provider_overloaded"),
    ("404", responds_with(404), "model_not_found"),
    ("400 for a model", responds_with(400, error_body("?", code="model_not_found")), "model_not_found"),
    ("400 for length", responds_with(400, error_body("?", code="context_length_exceeded")), "context_length"),
    ("400 for length in words", responds_with(400, error_body("the maximum context length is 5")), "context_length"),
    ("400 for its content", responds_with(400, error_body("?", code="content_filter")), "provider_refused"),
    ("400", responds_with(400), "provider_bad_response"),
    ("400 in text", responds_with(400, b"no"), "provider_bad_response"),
    ("422 with detail", responds_with(422, {"detail": "no"}), "provider_bad_response"),
    ("a redirect", responds_with(301, b"", {"Location": "http://127.0.0.1:1/"}), "provider_bad_response"),
    ("no HTTP", sends_garbage(), "provider_bad_response"),
    ("a page", sends_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "provider_bad_response"),
    ("JSON that is no answer", responds_with(200, {"hello": 1}), "provider_bad_response"),
    ("no JSON in the stream", streams_events(b"hello"), "provider_bad_response"),
    ("a cut before the head", cuts_connection(), "provider_network"),
    ("a cut in the stream", cuts_connection("Hel"), "provider_network"),
    ("a cut in a chunk", sends_garbage(TRUNCATED_STREAM), "provider_network"),
    (
        "an end before the end",
        streams_events({"choices": [{"delta": {"content": "a"}}]}, done=False),
        "provider_network",
    ),
    ("an empty stream", streams_events(done=False), "provider_network"),
    ("an error in the stream", streams_events(error_body("boom")), "provider_bad_response"),
    ("an overload in the stream", streams_events(error_body("busy", code=503)), "provider_overloaded"),
    ("a limit in the stream", streams_events(error_body("slow", type="rate_limit_error")), "provider_rate_limited"),
]


@pytest.mark.parametrize(("behaviour", "kind"), [pytest.param(how, kind, id=name) for name, how, kind in FAILURES])
async def test_every_failure_has_a_kind_the_provider_and_a_hint(behaviour: Behaviour, kind: TurnErrorKind) -> None:
    async with provider() as (fake, models):
        fake.enqueue(behaviour)
        error = (await failure(models)).error
        assert error.kind == kind
        assert f"provider fake (127.0.0.1:{fake.port}), model m " in error.message
        assert error.hint
        # The failed connection does not affect the next request.
        fake.enqueue(replies("ok"))
        assert (await models.reply(request_of(), list[ReplyChunk]().append)).content == "ok"


async def test_an_unreachable_server_is_a_network_failure_with_its_cause() -> None:
    async with open_provider() as fake:
        url = fake.url
    async with provider(base_url=url) as (_, models):
        error = (await failure(models)).error
    assert error.kind == "provider_network"
    assert "cannot be reached" in error.message
    assert "refused" in error.message
    assert "base_url of [providers.fake] in walrus.toml" in error.hint


async def test_a_host_name_that_dns_cannot_express_is_a_network_failure() -> None:
    async with provider(base_url=f"http://{'a' * 64}.example/v1") as (_, models):
        error = (await failure(models)).error
    assert error.kind == "provider_network"
    assert "could not be called" in error.message


@pytest.mark.parametrize(
    "url", ["localhost:1/v1", "ftp://127.0.0.1/v1", "http://[::1/v1", "http://127.0.0.1:99999/v1", "x"]
)
async def test_an_invalid_base_url_is_a_failure_and_not_a_crash(url: str) -> None:
    async with provider(base_url=url) as (_, models):
        assert (await failure(models)).error.kind in {"provider_network", "provider_bad_response"}


@pytest.mark.parametrize("behaviour", [hangs(), hangs("Hel")], ids=["before the head", "in the stream"])
async def test_a_silent_server_is_a_timeout_and_its_connection_is_closed(
    behaviour: Behaviour, mock_clock: MockClock
) -> None:
    async with provider() as (fake, models), trio.open_nursery() as nursery:
        fake.enqueue(behaviour)
        nursery.start_soon(pass_time, fake, mock_clock, 61)
        error = (await failure(models)).error
        await fake.wait_until(lambda fake: fake.disconnects == 1)
    assert error.kind == "provider_timeout"
    assert "sent nothing for 60 s" in error.message
    assert "idle_timeout_s" in error.hint


async def test_an_answer_that_takes_too_long_as_a_whole_is_a_timeout_and_not_retried(mock_clock: MockClock) -> None:
    async with provider(timeout_s=50, max_retries=3) as (fake, models), trio.open_nursery() as nursery:
        fake.enqueue(hangs())
        nursery.start_soon(pass_time, fake, mock_clock, 51)
        error = (await failure(models)).error
        assert len(fake.requests) == 1
    assert error.kind == "provider_timeout"
    assert "did not finish within 50 s" in error.message


async def test_comments_keep_a_stream_alive(mock_clock: MockClock) -> None:
    """Servers that queue a request send comments until they process it."""

    async def send_comments(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        for _ in range(4):
            await exchange.send(b"6\r\n: hm\n\n\r\n")
            await wait_all_tasks_blocked(0.02)
            mock_clock.jump(40)
        await streams_events({"choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]}, head=False)(exchange)

    async with provider() as (fake, models):
        fake.enqueue(send_comments)
        assert (await models.reply(request_of(), list[ReplyChunk]().append)).content == "ok"


async def pass_time(fake: FakeProvider, clock: MockClock, seconds: float) -> None:
    """Advances the clock once a request has arrived and all tasks are blocked."""
    await fake.wait_until(lambda fake: len(fake.requests) == 1)
    await wait_all_tasks_blocked(0.02)
    clock.jump(seconds)


async def test_cancelling_closes_the_connection_at_once() -> None:
    async with provider() as (fake, models):
        fake.enqueue(hangs("Hel"))
        with trio.fail_after(5):
            with trio.CancelScope() as scope:
                await models.reply(request_of(), lambda _: scope.cancel())
            await fake.wait_until(lambda fake: fake.disconnects == 1)


@pytest.mark.parametrize("end", ["cut", "silence"])
async def test_a_failure_after_the_finish_reason_does_not_lose_the_reply(end: str, mock_clock: MockClock) -> None:
    event = json.dumps({"choices": [{"delta": {"content": "All."}, "finish_reason": "stop"}]}).encode()
    response = STREAM_HEAD + b"%x\r\ndata: %s\n\n\r\n" % (len(event) + 8, event)

    async def behave(exchange: Exchange) -> None:
        await exchange.send(response)
        if end == "silence":
            await exchange.wait_disconnect()
        exchange.close_after()

    async with provider() as (fake, models), trio.open_nursery() as nursery:
        fake.enqueue(behave)
        if end == "silence":
            nursery.start_soon(pass_time, fake, mock_clock, 61)
        assert (await models.reply(request_of(), list[ReplyChunk]().append)).content == "All."


async def test_a_stream_that_continues_after_done_is_closed() -> None:
    body = b'data: {"choices": [{"delta": {"content": "All."}}]}\n\ndata: [DONE]\n\n'

    async def behave(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + b"%x\r\n%s\r\n" % (len(body), body))
        await exchange.wait_disconnect()

    async with provider() as (fake, models):
        fake.enqueue(behave)
        assert (await models.reply(request_of(), list[ReplyChunk]().append)).content == "All."


async def test_an_error_never_contains_secrets() -> None:
    echoed = f"You sent {KEY} and walrus-token to me.\x1b[31m\n"
    for behaviour in (
        responds_with(401, error_body(echoed)),
        responds_with(400, echoed.encode()),
        streams_events(error_body(echoed)),
    ):
        async with provider(headers={"X-Token": Secret("walrus-token")}) as (fake, models):
            fake.enqueue(behaviour)
            failed = await failure(models)
        assert "You sent *** and *** to me." in failed.error.message
        chain: BaseException | None = failed
        while chain is not None:
            assert KEY not in f"{chain!r}{chain}"
            chain = chain.__cause__


async def test_a_long_error_page_is_cut() -> None:
    async with provider() as (fake, models):
        fake.enqueue(responds_with(500, b"x" * 300_000))
        message = (await failure(models)).error.message
    assert len(message) < 700
    assert message.endswith("x…")


async def test_a_token_cap_is_sent_only_if_it_is_set() -> None:
    async with open_provider() as fake:
        fake.set_default(replies("ok"))
        table = ProviderSettings(kind="openai", base_url=fake.url, models=("m", "n"))
        async with open_models_with_spawner({"fake": table}, {"n": ModelSettings(max_output_tokens=7)}) as models:
            for name in ("m", "n"):
                await models.reply(request_of(model=name), list[ReplyChunk]().append)
            await models.reply(replace(request_of(model="n"), max_output_tokens=3), list[ReplyChunk]().append)
    assert [request.body.get("max_tokens") for request in fake.requests] == [None, 7, 3]


async def test_requests_to_loopback_bypass_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with provider() as (fake, models):
        fake.enqueue(replies("ok"))
        assert (await models.reply(request_of(), list[ReplyChunk]().append)).content == "ok"


def test_the_http_library_is_not_loaded_before_its_first_use() -> None:
    code = "import sys, walrusd.providers.registry; print('httpx2' in sys.modules, 'xllamacpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "False False\n"
    )
