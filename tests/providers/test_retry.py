"""Tests of retries: which failures are retried, and when."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.provider import Behaviour, cuts_connection, hangs, open_provider, replies, responds_with
from walrus_config.schema import ProviderSettings
from walrus_protocol.content import TurnErrorKind, User
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply, ReplyChunk, TextChunk
from walrusd.providers.http import Http, parse_retry_after
from walrusd.providers.openai import OpenAI, build_endpoint
from walrusd.providers.provider_errors import ProviderCallFailed
from walrusd.providers.retry import Provider, exchange_with_retries
from walrusd.session.conversation import ConversationView

REQUEST = ModelRequest(purpose="turn", model="m", system="", history=ConversationView([User("hi")]))


def call_failure(
    kind: TurnErrorKind = "provider_overloaded", *, retryable: bool = True, retry_after_s: float = 0
) -> ProviderCallFailed:
    return ProviderCallFailed(kind, "no", "", retryable=retryable, retry_after_s=retry_after_s)


class PlannedProvider:
    """A provider that gives one outcome after the other; `text_before` is emitted before each."""

    def __init__(self, *outcomes: ProviderCallFailed | str, text_before: str = "") -> None:
        self.times: list[float] = []
        """The time of each attempt."""
        self._remaining = list(outcomes)
        self._text_before = text_before

    async def exchange(self, _: ModelRequest, on_chunk: OnChunk) -> Reply:
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self._text_before:
            on_chunk(TextChunk(self._text_before))
        outcome = self._remaining.pop(0)
        if isinstance(outcome, str):
            return Reply(content=outcome)
        raise outcome


async def run_with_retries(provider: Provider, max_retries: int = 2, on_chunk: OnChunk = lambda _: None) -> Reply:
    return await exchange_with_retries(provider, REQUEST, on_chunk, name="fake", max_retries=max_retries)


async def test_a_temporary_failure_is_retried_after_a_doubling_wait(autojump_clock: MockClock) -> None:
    provider = PlannedProvider(call_failure(), call_failure(), call_failure(), "ok")
    assert (await run_with_retries(provider, 3)).content == "ok"
    waits = [later - earlier for earlier, later in itertools.pairwise(provider.times)]
    for wait, longest in zip(waits, (0.5, 1, 2), strict=True):
        assert longest / 2 <= wait <= longest


async def test_retry_after_is_the_minimum_wait(autojump_clock: MockClock) -> None:
    provider = PlannedProvider(call_failure(retry_after_s=20), "ok")
    await run_with_retries(provider)
    assert provider.times[1] - provider.times[0] == pytest.approx(20)


@pytest.mark.parametrize(
    "failure", [call_failure(retryable=False), call_failure(retry_after_s=61)], ids=["for good", "too long a wait"]
)
async def test_some_failures_are_not_retried(failure: ProviderCallFailed, autojump_clock: MockClock) -> None:
    provider = PlannedProvider(failure)
    with pytest.raises(ProviderCallFailed):
        await run_with_retries(provider)
    assert len(provider.times) == 1


async def test_a_call_is_retried_only_as_often_as_configured(autojump_clock: MockClock) -> None:
    provider = PlannedProvider(call_failure(), call_failure(), call_failure(), "too late")
    with pytest.raises(ProviderCallFailed):
        await run_with_retries(provider, 2)
    assert len(provider.times) == 3


async def test_nothing_is_retried_after_the_first_chunk(autojump_clock: MockClock) -> None:
    provider = PlannedProvider(call_failure(), "too late", text_before="Hel")
    with pytest.raises(ProviderCallFailed):
        await run_with_retries(provider)
    assert len(provider.times) == 1


async def reply_over_http(clock: MockClock, *behaviours: Behaviour) -> tuple[Sequence[object], int]:
    """Returns the result with the chunks, and the number of requests.

    The clock advances when all tasks are blocked.
    """
    async with open_provider() as fake:
        fake.enqueue(replies("warm"), *behaviours)
        http = Http()
        provider = OpenAI(build_endpoint("fake", ProviderSettings(kind="openai", base_url=fake.url)), http)
        try:
            # The first request creates the client in a thread, which the mock clock does not wait for.
            await run_with_retries(provider)
            clock.autojump_threshold = 0.05
            chunks = list[ReplyChunk]()
            try:
                reply = await run_with_retries(provider, on_chunk=chunks.append)
            except ModelFailed as failure:
                return (failure.error.kind, chunks), len(fake.requests) - 1
            return (reply.content, chunks), len(fake.requests) - 1
        finally:
            await http.aclose()


@pytest.mark.parametrize(
    ("behaviours", "outcome", "requests"),
    [
        ((responds_with(503), responds_with(429), replies("ok")), ("ok", [TextChunk("ok")]), 3),
        ((cuts_connection(), replies("ok")), ("ok", [TextChunk("ok")]), 2),
        ((hangs(), replies("ok")), ("ok", [TextChunk("ok")]), 2),
        ((responds_with(503), responds_with(503), responds_with(500)), ("provider_overloaded", []), 3),
        ((responds_with(401), replies("ok")), ("provider_auth", []), 1),
        ((responds_with(429, {"error": {"code": "insufficient_quota"}}), replies("ok")), ("provider_quota", []), 1),
        ((responds_with(429, headers={"Retry-After": "61"}), replies("ok")), ("provider_rate_limited", []), 1),
        ((cuts_connection("Hel"), replies("ok")), ("provider_network", [TextChunk("Hel")]), 1),
        ((hangs("Hel"), replies("ok")), ("provider_timeout", [TextChunk("Hel")]), 1),
    ],
)
async def test_the_retry_rules_hold_over_http(
    behaviours: tuple[Behaviour, ...], outcome: tuple[object, ...], requests: int, mock_clock: MockClock
) -> None:
    assert await reply_over_http(mock_clock, *behaviours) == (outcome, requests)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": format_datetime(datetime.fromtimestamp(1000, UTC) + timedelta(seconds=30), usegmt=True)}, 30),
        ({"retry-after": "nan"}, 0),
        ({"retry-after-ms": "soon"}, 0),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"retry-after": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, 0),
    ],
)
def test_a_retry_after_may_be_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert parse_retry_after(headers, lambda: 1000.0) == seconds
