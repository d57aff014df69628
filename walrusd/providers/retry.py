"""The port of the providers, and the retries of their exchanges: which failures are retried, and after which wait."""

from random import random
from typing import Protocol

import structlog
import trio

from walrusd.ports import ModelRequest, OnChunk, Reply, ReplyChunk
from walrusd.providers.provider_errors import ProviderCallFailed

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0
MAX_RETRY_AFTER_S = 60.0
"""Maximum seconds of a Retry-After that is waited for; with a longer one the call fails."""

_log = structlog.get_logger("walrusd.providers")


class Provider(Protocol):
    """A configured provider: a server, an engine or a script."""

    async def exchange(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """Makes one attempt to get an answer. Cancelling it ends the exchange at once.

        The caller sets the model and the provider of the reply. Raises ModelFailed; it is retried only if it is a
        ProviderCallFailed that says so.
        """


async def exchange_with_retries(
    provider: Provider, request: ModelRequest, on_chunk: OnChunk, *, name: str, max_retries: int
) -> Reply:
    """Repeats the exchange until it succeeds or a retry is pointless; never retries once a chunk was passed on.

    `name` is the provider's, for the log. Raises ModelFailed.
    """
    started = False

    def on_attempt_chunk(chunk: ReplyChunk) -> None:
        nonlocal started
        started = True
        on_chunk(chunk)

    tries = 0
    while True:
        try:
            return await provider.exchange(request, on_attempt_chunk)
        except ProviderCallFailed as failed:
            if started or not failed.retryable or tries >= max_retries or failed.retry_after_s > MAX_RETRY_AFTER_S:
                raise
            tries += 1
            wait = max(failed.retry_after_s, _backoff(tries))
            _log.warning(
                "provider_retry",
                provider=name,
                purpose=request.purpose,
                kind=failed.error.kind,
                attempt=tries,
                wait_s=round(wait, 2),
            )
        await trio.sleep(wait)


def _backoff(tries: int) -> float:
    """Returns a delay that doubles with each try; half is random, so that retries spread out."""
    longest: float = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (tries - 1))
    return longest * (0.5 + random() / 2)  # noqa: S311 - jitter, not a secret
