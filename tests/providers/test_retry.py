"""The one retry layer: what is asked again, when, and what is not."""

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.provider import Behaviour, cuts, hangs, open_provider, refuses, says
from walrus_config.schema import Provider
from walrus_protocol.content import TurnErrorKind, User
from walrusd.ports import ModelFailed, ModelRequest, Reply, Said, Say, TextSaid
from walrusd.providers.failures import ExchangeFailed
from walrusd.providers.http import Http, retry_after_s
from walrusd.providers.openai import OpenAI, endpoint
from walrusd.providers.retry import with_retries
from walrusd.session.history import History

ASK = ModelRequest(model="m", system="", history=History([User("hi")]))


def failed(kind: TurnErrorKind = "provider_overloaded", *, retryable: bool = True, after: float = 0) -> ExchangeFailed:
    return ExchangeFailed(kind, "no", "", retryable=retryable, retry_after_s=after)


def tries(*outcomes: ExchangeFailed | str) -> tuple[list[float], Callable[[Say], Any]]:
    """An attempt for each outcome, and when each was made."""
    left, times = list(outcomes), list[float]()

    async def attempt(say: Say) -> Reply:
        times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        outcome = left.pop(0)
        if isinstance(outcome, str):
            return Reply(content=outcome)
        raise outcome

    return times, attempt


async def run(attempt: Callable[[Say], Any], max_retries: int = 2) -> Reply:
    return await with_retries(attempt, list[Said]().append, provider="fake", max_retries=max_retries, random=Random(1))


async def test_a_failure_that_may_pass_is_tried_again_after_a_doubling_wait(autojump_clock: MockClock) -> None:
    times, attempt = tries(failed(), failed(), failed(), "ok")
    assert (await run(attempt, 3)).content == "ok"
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    for wait, longest in zip(waits, (0.5, 1, 2), strict=True):
        assert longest / 2 <= wait <= longest


async def test_what_the_provider_asks_to_wait_is_a_floor(autojump_clock: MockClock) -> None:
    times, attempt = tries(failed(after=20), "ok")
    await run(attempt)
    assert times[1] - times[0] == pytest.approx(20)


@pytest.mark.parametrize("failure", [failed(retryable=False), failed(after=61)], ids=["for good", "too long a wait"])
async def test_some_failures_are_final(failure: ExchangeFailed, autojump_clock: MockClock) -> None:
    times, attempt = tries(failure)
    with pytest.raises(ExchangeFailed):
        await run(attempt)
    assert len(times) == 1


async def test_it_is_tried_again_only_as_often_as_configured(autojump_clock: MockClock) -> None:
    times, attempt = tries(failed(), failed(), failed(), "too late")
    with pytest.raises(ExchangeFailed):
        await run(attempt, 2)
    assert len(times) == 3


async def test_nothing_is_asked_twice_once_a_word_was_passed_on(autojump_clock: MockClock) -> None:
    count = 0

    async def attempt(say: Say) -> Reply:
        nonlocal count
        count += 1
        await trio.lowlevel.checkpoint()
        say(TextSaid("Hel"))
        raise failed()

    with pytest.raises(ExchangeFailed):
        await run(attempt)
    assert count == 1


async def over_http(clock: MockClock, *behaviours: Behaviour) -> tuple[Sequence[object], int]:
    """What came of it, and how many requests were made. Time passes as soon as nothing else happens."""
    async with open_provider() as fake:
        fake.will(says("warm"), *behaviours)
        http = Http()
        model = OpenAI(endpoint("fake", Provider(kind="openai", base_url=fake.url)), http, random=Random(1))
        try:
            await model.reply(ASK, list[Said]().append)  # its client is made in a thread, which a clock does not see
            clock.autojump_threshold = 0.05
            said = list[Said]()
            try:
                reply = await model.reply(ASK, said.append)
            except ModelFailed as failure:
                return (failure.error.kind, said), len(fake.requests) - 1
            return (reply.content, said), len(fake.requests) - 1
        finally:
            await http.aclose()


@pytest.mark.parametrize(
    ("behaviours", "outcome", "requests"),
    [
        ((refuses(503), refuses(429), says("ok")), ("ok", [TextSaid("ok")]), 3),
        ((cuts(), says("ok")), ("ok", [TextSaid("ok")]), 2),
        ((hangs(), says("ok")), ("ok", [TextSaid("ok")]), 2),
        ((refuses(503), refuses(503), refuses(500)), ("provider_overloaded", []), 3),
        ((refuses(401), says("ok")), ("provider_auth", []), 1),
        ((refuses(429, {"error": {"code": "insufficient_quota"}}), says("ok")), ("provider_quota", []), 1),
        ((refuses(429, headers={"Retry-After": "61"}), says("ok")), ("provider_rate_limited", []), 1),
        ((cuts("Hel"), says("ok")), ("provider_network", [TextSaid("Hel")]), 1),
        ((hangs("Hel"), says("ok")), ("provider_timeout", [TextSaid("Hel")]), 1),
    ],
)
async def test_over_http_the_same_holds(
    behaviours: tuple[Behaviour, ...], outcome: tuple[object, ...], requests: int, mock_clock: MockClock
) -> None:
    assert await over_http(mock_clock, *behaviours) == (outcome, requests)


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
    assert retry_after_s(headers, lambda: 1000.0) == seconds
