"""Tests of retries: which failures are retried, and when."""

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any

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
from walrusd.providers.retry import with_retries
from walrusd.session.history import ConversationView

REQUEST = ModelRequest(purpose="turn", model="m", system="", history=ConversationView([User("hi")]))


def call_failure(
    kind: TurnErrorKind = "provider_overloaded", *, retryable: bool = True, retry_after_s: float = 0
) -> ProviderCallFailed:
    return ProviderCallFailed(kind, "no", "", retryable=retryable, retry_after_s=retry_after_s)


def scripted_attempts(*outcomes: ProviderCallFailed | str) -> tuple[list[float], Callable[[OnChunk], Any]]:
    """Returns the list of attempt times, and an attempt function that gives one outcome after the other."""
    remaining, times = list(outcomes), list[float]()

    async def attempt(on_chunk: OnChunk) -> Reply:
        times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        outcome = remaining.pop(0)
        if isinstance(outcome, str):
            return Reply(content=outcome)
        raise outcome

    return times, attempt


async def run_with_retries(attempt: Callable[[OnChunk], Any], max_retries: int = 2) -> Reply:
    return await with_retries(
        attempt, list[ReplyChunk]().append, provider="fake", max_retries=max_retries, random=Random(1)
    )


async def test_a_temporary_failure_is_retried_after_a_doubling_wait(autojump_clock: MockClock) -> None:
    times, attempt = scripted_attempts(call_failure(), call_failure(), call_failure(), "ok")
    assert (await run_with_retries(attempt, 3)).content == "ok"
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    for wait, longest in zip(waits, (0.5, 1, 2), strict=True):
        assert longest / 2 <= wait <= longest


async def test_retry_after_is_the_minimum_wait(autojump_clock: MockClock) -> None:
    times, attempt = scripted_attempts(call_failure(retry_after_s=20), "ok")
    await run_with_retries(attempt)
    assert times[1] - times[0] == pytest.approx(20)


@pytest.mark.parametrize(
    "failure", [call_failure(retryable=False), call_failure(retry_after_s=61)], ids=["for good", "too long a wait"]
)
async def test_some_failures_are_not_retried(failure: ProviderCallFailed, autojump_clock: MockClock) -> None:
    times, attempt = scripted_attempts(failure)
    with pytest.raises(ProviderCallFailed):
        await run_with_retries(attempt)
    assert len(times) == 1


async def test_a_call_is_retried_only_as_often_as_configured(autojump_clock: MockClock) -> None:
    times, attempt = scripted_attempts(call_failure(), call_failure(), call_failure(), "too late")
    with pytest.raises(ProviderCallFailed):
        await run_with_retries(attempt, 2)
    assert len(times) == 3


async def test_nothing_is_retried_after_the_first_chunk(autojump_clock: MockClock) -> None:
    count = 0

    async def attempt(on_chunk: OnChunk) -> Reply:
        nonlocal count
        count += 1
        await trio.lowlevel.checkpoint()
        on_chunk(TextChunk("Hel"))
        raise call_failure()

    with pytest.raises(ProviderCallFailed):
        await run_with_retries(attempt)
    assert count == 1


async def reply_over_http(clock: MockClock, *behaviours: Behaviour) -> tuple[Sequence[object], int]:
    """Returns the result with the chunks, and the number of requests.

    The clock advances when all tasks are blocked.
    """
    async with open_provider() as fake:
        fake.enqueue(replies("warm"), *behaviours)
        http = Http()
        model = OpenAI(
            build_endpoint("fake", ProviderSettings(kind="openai", base_url=fake.url)), http, random=Random(1)
        )
        try:
            # The first request creates the client in a thread, which the mock clock does not wait for.
            await model.reply(REQUEST, list[ReplyChunk]().append)
            clock.autojump_threshold = 0.05
            chunks = list[ReplyChunk]()
            try:
                reply = await model.reply(REQUEST, chunks.append)
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
    ],
)
def test_a_retry_after_may_be_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert parse_retry_after(headers, lambda: 1000.0) == seconds
