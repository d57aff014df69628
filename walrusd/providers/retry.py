"""The one retry layer: which failures are worth another try, and how long to wait before it."""

from collections.abc import Awaitable, Callable
from random import Random

import structlog
import trio

from walrusd.ports import Reply, Said, Say
from walrusd.providers.failures import ExchangeFailed

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 8.0
PATIENCE_S = 60.0
"""A provider that asks for more is not waited for: a person can decide better what to do with a minute."""

_log = structlog.get_logger("walrusd.providers")


async def with_retries(
    attempt: Callable[[Say], Awaitable[Reply]], say: Say, *, provider: str, max_retries: int, random: Random
) -> Reply:
    """`attempt`, repeated while that may help. Nothing is asked twice once a word of the answer was passed on.

    Raises ModelFailed.
    """
    begun = False

    def heard(said: Said) -> None:
        nonlocal begun
        begun = True
        say(said)

    tries = 0
    while True:
        try:
            return await attempt(heard)
        except ExchangeFailed as failed:
            if begun or not failed.retryable or tries >= max_retries or failed.retry_after_s > PATIENCE_S:
                raise
            tries += 1
            wait = max(failed.retry_after_s, _backoff(tries, random))
            _log.warning(
                "provider_retry", provider=provider, kind=failed.error.kind, attempt=tries, wait_s=round(wait, 2)
            )
        await trio.sleep(wait)


def _backoff(tries: int, random: Random) -> float:
    """Doubling, with half of it left to chance, so that sixteen sessions do not come back at once."""
    longest: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (tries - 1))
    return longest * (0.5 + random.random() / 2)
