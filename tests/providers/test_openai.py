"""One exchange with an OpenAI-compatible server over real HTTP, and every way it fails."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes.models import models_of
from tests.fakes.provider import (
    STREAM_HEAD,
    Behaviour,
    Exchange,
    FakeProvider,
    answers_whole,
    calls,
    cuts,
    garbage,
    hangs,
    open_provider,
    refuses,
    says,
    sends,
    streams,
)
from walrus_config.schema import ModelSettings, Provider, Secret
from walrus_protocol.content import ToolCall, TurnErrorKind, Usage, User
from walrusd.ports import ModelFailed, ModelRequest, Reply, Said, TextSaid
from walrusd.providers.registry import Models
from walrusd.session.history import History

KEY = "sk-very-secret-0123456789"


def ask(text: str = "hi", model: str = "m") -> ModelRequest:
    return ModelRequest(model=model, system="", history=History([User(text)]))


@asynccontextmanager
async def provider(**settings: Any) -> AsyncIterator[tuple[FakeProvider, Models]]:
    """A fake server and the models of a daemon that knows it as "fake"."""
    async with open_provider() as fake:
        table = Provider(
            kind="openai", models=("m",), **{"base_url": fake.url, "api_key": Secret(KEY), "max_retries": 0, **settings}
        )
        async with models_of({"fake": table}, {}) as models:
            yield fake, models


async def failure(models: Models) -> ModelFailed:
    with pytest.raises(ModelFailed) as failed:
        await models.reply(ask(), list[Said]().append)
    return failed.value


async def test_an_answer_is_said_while_it_comes_and_returned_whole() -> None:
    async with provider() as (fake, models):
        first, second = trio.Event(), trio.Event()
        fake.will(says(["Hel", "lo"], gate=(first, second)))
        said = list[Said]()

        def say(piece: Said) -> None:
            said.append(piece)
            second.set()  # the second piece is sent only once the first was heard

        first.set()
        reply = await models.reply(ask(), say)
    assert said == [TextSaid("Hel"), TextSaid("lo")]
    assert reply == Reply(content="Hello", model="m", provider="fake", usage=Usage(input=10, output=5))


async def test_a_request_carries_the_key_the_headers_and_the_body() -> None:
    async with provider(headers={"X-Title": Secret("walrus")}) as (fake, models):
        fake.will(says("ok"))
        await models.reply(ask("hello"), list[Said]().append)
        (request,) = fake.requests
    assert request.path == "/v1/chat/completions"
    assert (request.headers["authorization"], request.headers["x-title"]) == (f"Bearer {KEY}", "walrus")
    assert request.body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hello"}],
    }


async def test_calls_and_their_arguments_arrive() -> None:
    async with provider() as (fake, models):
        fake.will(calls(("read", {"path": "a"}), ("read", '{"path"'), text="Look:"))
        reply = await models.reply(ask(), list[Said]().append)
    assert reply.calls == (ToolCall("call_read_0", "read", {"path": "a"}), ToolCall("call_read_1", "read", '{"path"'))
    assert (reply.content, reply.finish) == ("Look:", "tool_calls")


async def test_a_server_that_does_not_stream_is_understood() -> None:
    async with provider() as (fake, models):
        fake.will(answers_whole({"role": "assistant", "content": "whole"}))
        said = list[Said]()
        reply = await models.reply(ask(), said.append)
    assert said == [TextSaid("whole")]
    assert (reply.content, reply.usage) == ("whole", Usage(input=10, output=5))


async def test_one_connection_serves_one_answer_after_the_other() -> None:
    async with provider() as (fake, models):
        fake.always(says("ok"))
        for _ in range(5):
            await models.reply(ask(), list[Said]().append)
        assert (len(fake.requests), fake.connections) == (5, 1)


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


FINISH_CUT = STREAM_HEAD + b'99\r\ndata: {"choices": [{"delta": {"content": "a"}}]}\n\n'
FAILURES: list[tuple[str, Behaviour, TurnErrorKind]] = [
    ("401", refuses(401), "provider_auth"),
    ("403", refuses(403), "provider_auth"),
    ("402", refuses(402), "provider_quota"),
    ("429", refuses(429), "provider_rate_limited"),
    ("429 that is a quota", refuses(429, error("Pay.", code="insufficient_quota")), "provider_quota"),
    ("500", refuses(500), "provider_overloaded"),
    ("502 in HTML", refuses(502, b"<html>Bad Gateway", {"Content-Type": "text/html"}), "provider_overloaded"),
    ("503", refuses(503), "provider_overloaded"),
    ("504", refuses(504), "provider_timeout"),
    ("529", refuses(529), "provider_overloaded"),
    ("404", refuses(404), "model_not_found"),
    ("400 for a model", refuses(400, error("?", code="model_not_found")), "model_not_found"),
    ("400 for length", refuses(400, error("?", code="context_length_exceeded")), "context_length"),
    ("400 for length in words", refuses(400, error("the maximum context length is 5")), "context_length"),
    ("400 for its content", refuses(400, error("?", code="content_filter")), "provider_refused"),
    ("400", refuses(400), "provider_bad_response"),
    ("400 in text", refuses(400, b"no"), "provider_bad_response"),
    ("422 with detail", refuses(422, {"detail": "no"}), "provider_bad_response"),
    ("a redirect", refuses(301, b"", {"Location": "http://127.0.0.1:1/"}), "provider_bad_response"),
    ("no HTTP", garbage(), "provider_bad_response"),
    ("a page", sends(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "provider_bad_response"),
    ("JSON that is no answer", refuses(200, {"hello": 1}), "provider_bad_response"),
    ("no JSON in the stream", streams(b"hello"), "provider_bad_response"),
    ("a cut before the head", cuts(), "provider_network"),
    ("a cut in the stream", cuts("Hel"), "provider_network"),
    ("a cut in a chunk", garbage(FINISH_CUT), "provider_network"),
    ("an end before the end", streams({"choices": [{"delta": {"content": "a"}}]}, done=False), "provider_network"),
    ("an empty stream", streams(done=False), "provider_network"),
    ("an error in the stream", streams(error("boom")), "provider_bad_response"),
    ("an overload in the stream", streams(error("busy", code=503)), "provider_overloaded"),
    ("a limit in the stream", streams(error("slow", type="rate_limit_error")), "provider_rate_limited"),
]


@pytest.mark.parametrize(("behaviour", "kind"), [pytest.param(how, kind, id=name) for name, how, kind in FAILURES])
async def test_every_failure_has_its_kind_and_says_where_and_what_to_do(
    behaviour: Behaviour, kind: TurnErrorKind
) -> None:
    async with provider() as (fake, models):
        fake.will(behaviour)
        told = (await failure(models)).error
        assert told.kind == kind
        assert f"provider fake (127.0.0.1:{fake.port}), model m " in told.message
        assert told.hint
        # The connection that failed does not stand in the way of the next answer.
        fake.will(says("ok"))
        assert (await models.reply(ask(), list[Said]().append)).content == "ok"


async def test_a_server_that_is_not_there_is_a_network_failure_that_says_so() -> None:
    async with open_provider() as fake:
        url = fake.url
    async with provider(base_url=url) as (_, models):
        told = (await failure(models)).error
    assert told.kind == "provider_network"
    assert "cannot be reached" in told.message
    assert "refused" in told.message
    assert "base_url of [providers.fake] in walrus.toml" in told.hint


@pytest.mark.parametrize(
    "url", ["localhost:1/v1", "ftp://127.0.0.1/v1", "http://[::1/v1", "http://127.0.0.1:99999/v1", "x"]
)
async def test_a_base_url_that_is_none_is_a_failure_and_no_crash(url: str) -> None:
    async with provider(base_url=url) as (_, models):
        assert (await failure(models)).error.kind in {"provider_network", "provider_bad_response"}


@pytest.mark.parametrize("behaviour", [hangs(), hangs("Hel")], ids=["before the head", "in the stream"])
async def test_a_silent_server_is_a_timeout_and_its_connection_is_closed(
    behaviour: Behaviour, mock_clock: MockClock
) -> None:
    async with provider() as (fake, models), trio.open_nursery() as nursery:
        fake.will(behaviour)
        nursery.start_soon(pass_time, fake, mock_clock, 61)
        told = (await failure(models)).error
        await fake.until(lambda fake: fake.gone == 1)
    assert told.kind == "provider_timeout"
    assert "was silent for 60 s" in told.message
    assert "idle_timeout_s" in told.hint


async def test_an_answer_that_takes_too_long_as_a_whole_is_a_timeout_and_not_retried(mock_clock: MockClock) -> None:
    async with provider(timeout_s=50, max_retries=3) as (fake, models), trio.open_nursery() as nursery:
        fake.will(hangs())
        nursery.start_soon(pass_time, fake, mock_clock, 51)
        told = (await failure(models)).error
        assert len(fake.requests) == 1
    assert told.kind == "provider_timeout"
    assert "was not done within 50 s" in told.message


async def test_comments_keep_a_stream_alive(mock_clock: MockClock) -> None:
    """Servers that queue a request send comments until its turn comes."""

    async def waits(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        for _ in range(4):
            await exchange.send(b"6\r\n: hm\n\n\r\n")
            await wait_all_tasks_blocked(0.02)
            mock_clock.jump(40)
        await streams({"choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]}, head=False)(exchange)

    async with provider() as (fake, models):
        fake.will(waits)
        assert (await models.reply(ask(), list[Said]().append)).content == "ok"


async def pass_time(fake: FakeProvider, clock: MockClock, seconds: float) -> None:
    """Let time pass once a request has come and nothing more happens."""
    await fake.until(lambda fake: len(fake.requests) == 1)
    await wait_all_tasks_blocked(0.02)
    clock.jump(seconds)


async def test_cancelling_closes_the_connection_at_once() -> None:
    async with provider() as (fake, models):
        fake.will(hangs("Hel"))
        with trio.fail_after(5):
            with trio.CancelScope() as scope:
                await models.reply(ask(), lambda _: scope.cancel())
            await fake.until(lambda fake: fake.gone == 1)


@pytest.mark.parametrize("end", ["cut", "silence"])
async def test_an_answer_that_has_its_finish_reason_is_not_lost(end: str, mock_clock: MockClock) -> None:
    event = json.dumps({"choices": [{"delta": {"content": "All."}, "finish_reason": "stop"}]}).encode()
    said = STREAM_HEAD + b"%x\r\ndata: %s\n\n\r\n" % (len(event) + 8, event)

    async def behave(exchange: Exchange) -> None:
        await exchange.send(said)
        if end == "silence":
            await exchange.until_gone()
        exchange.cut()

    async with provider() as (fake, models), trio.open_nursery() as nursery:
        fake.will(behave)
        if end == "silence":
            nursery.start_soon(pass_time, fake, mock_clock, 61)
        assert (await models.reply(ask(), list[Said]().append)).content == "All."


async def test_a_stream_that_goes_on_after_it_said_done_is_left() -> None:
    body = b'data: {"choices": [{"delta": {"content": "All."}}]}\n\ndata: [DONE]\n\n'

    async def behave(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + b"%x\r\n%s\r\n" % (len(body), body))
        await exchange.until_gone()

    async with provider() as (fake, models):
        fake.will(behave)
        assert (await models.reply(ask(), list[Said]().append)).content == "All."


async def test_secrets_never_stand_in_an_error() -> None:
    echoed = f"You sent {KEY} and walrus-token to me.\x1b[31m\n"
    for behaviour in (refuses(401, error(echoed)), refuses(400, echoed.encode()), streams(error(echoed))):
        async with provider(headers={"X-Token": Secret("walrus-token")}) as (fake, models):
            fake.will(behaviour)
            failed = await failure(models)
        assert "You sent *** and *** to me." in failed.error.message
        chain: BaseException | None = failed
        while chain is not None:
            assert KEY not in f"{chain!r}{chain}"
            chain = chain.__cause__


async def test_a_long_error_page_is_cut() -> None:
    async with provider() as (fake, models):
        fake.will(refuses(500, b"x" * 300_000))
        message = (await failure(models)).error.message
    assert len(message) < 700
    assert message.endswith("x…")


async def test_no_cap_is_sent_unless_one_is_set() -> None:
    async with open_provider() as fake:
        fake.always(says("ok"))
        table = Provider(kind="openai", base_url=fake.url, models=("m", "n"))
        async with models_of({"fake": table}, {"n": ModelSettings(max_output_tokens=7)}) as models:
            for name in ("m", "n"):
                await models.reply(ask(model=name), list[Said]().append)
    assert [request.body.get("max_tokens") for request in fake.requests] == [None, 7]


async def test_loopback_is_asked_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with provider() as (fake, models):
        fake.will(says("ok"))
        assert (await models.reply(ask(), list[Said]().append)).content == "ok"


def test_the_http_library_is_not_loaded_before_its_first_use() -> None:
    code = "import sys, walrusd.providers.registry; print('httpx2' in sys.modules, 'xllamacpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "False False\n"
    )
