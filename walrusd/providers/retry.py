"""Retries failed provider calls: decides which failures to retry, and how long to wait before."""

from collections.abc import Awaitable, Callable
from random import Random

import structlog
import trio

from walrusd.ports import OnChunk, Reply, ReplyChunk
from walrusd.providers.provider_errors import ProviderCallFailed

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0
MAX_RETRY_AFTER_S = 60.0
"""Maximum seconds of a Retry-After that is waited for; with a longer one the call fails."""

_log = structlog.get_logger("walrusd.providers")


async def with_retries(
    attempt: Callable[[OnChunk], Awaitable[Reply]],
    on_chunk: OnChunk,
    *,
    provider: str,
    max_retries: int,
    random: Random,
) -> Reply:
    """Calls `attempt` until it succeeds or a retry is pointless; never retries once a chunk was passed on.

    Raises ModelFailed.
    """
    started = False

    def on_attempt_chunk(chunk: ReplyChunk) -> None:
        nonlocal started
        started = True
        on_chunk(chunk)

    tries = 0
    while True:
        try:
            return await attempt(on_attempt_chunk)
        except ProviderCallFailed as failed:
            if started or not failed.retryable or tries >= max_retries or failed.retry_after_s > MAX_RETRY_AFTER_S:
                raise
            tries += 1
            wait = max(failed.retry_after_s, _backoff(tries, random))
            _log.warning(
                "provider_retry", provider=provider, kind=failed.error.kind, attempt=tries, wait_s=round(wait, 2)
            )
        await trio.sleep(wait)


def _backoff(tries: int, random: Random) -> float:
    """Returns a delay that doubles with each try; half is random, so that retries spread out."""
    longest: float = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (tries - 1))
    return longest * (0.5 + random.random() / 2)
