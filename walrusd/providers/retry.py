"""The one retry layer: which failures are worth another try, and how long to wait before it."""

from collections.abc import Awaitable, Callable
from random import Random

import structlog
import trio

from walrusd.ports import OnChunk, Reply, ReplyChunk
from walrusd.providers.provider_errors import ProviderCallFailed

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0
MAX_RETRY_AFTER_S = 60.0
"""A provider that asks for more is not waited for: a person can decide better what to do with a minute."""

_log = structlog.get_logger("walrusd.providers")


async def with_retries(
    attempt: Callable[[OnChunk], Awaitable[Reply]],
    on_chunk: OnChunk,
    *,
    provider: str,
    max_retries: int,
    random: Random,
) -> Reply:
    """`attempt`, repeated while that may help. Nothing is asked twice once a word of the answer was passed on.

    Raises ModelFailed.
    """
    begun = False

    def heard(said: ReplyChunk) -> None:
        nonlocal begun
        begun = True
        on_chunk(said)

    tries = 0
    while True:
        try:
            return await attempt(heard)
        except ProviderCallFailed as failed:
            if begun or not failed.retryable or tries >= max_retries or failed.retry_after_s > MAX_RETRY_AFTER_S:
                raise
            tries += 1
            wait = max(failed.retry_after_s, _backoff(tries, random))
            _log.warning(
                "provider_retry", provider=provider, kind=failed.error.kind, attempt=tries, wait_s=round(wait, 2)
            )
        await trio.sleep(wait)


def _backoff(tries: int, random: Random) -> float:
    """Doubling, with half of it left to chance, so that sixteen sessions do not come back at once."""
    longest: float = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (tries - 1))
    return longest * (0.5 + random.random() / 2)
