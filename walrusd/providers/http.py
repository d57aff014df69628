"""The one HTTP edge: a client for the daemon, made when the first provider needs it, and foreign errors translated.

httpx2 is imported and its TLS context made in a thread, at the first request: together they take some 200 ms, which
neither a start of the daemon nor its loop should pay. The usual proxy variables (HTTPS_PROXY, ALL_PROXY, NO_PROXY)
and SSL_CERT_FILE are obeyed, but loopback never goes through a proxy: a model on this machine is not asked over
another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from walrusd.ports import Clock
from walrusd.providers.provider_errors import ProviderCallFailed, ProviderContext

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S = 10.0
"""A host that has not taken a connection by then is not reachable; three SYNs fit."""
CLOSE_TIMEOUT_S = 1.0
"""How long the daemon's stop waits for connections to close in good form."""
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")


class Http:
    """Posts requests over one shared client."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None
        self._create_lock = trio.Lock()

    @asynccontextmanager
    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, idle_timeout_s: float, context: ProviderContext
    ) -> AsyncIterator[httpx2.Response]:
        """The response with its body unread. What httpx2 raises in here, reading included, becomes ExchangeFailed.

        Leaving it, also by cancellation, closes the connection unless the body was read to its end.
        """
        # Looked at before the lock is: taking it gives every other task a turn first, at each request.
        client = self._client or await self._get_client()
        import httpx2  # already loaded by then

        timeout = httpx2.Timeout(idle_timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with client.stream("POST", url, headers=dict(headers), content=body, timeout=timeout) as response:
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise _translate_error(error, context, idle_timeout_s) from error

    async def aclose(self) -> None:
        if self._client is not None:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self._client.aclose()

    async def _get_client(self) -> httpx2.AsyncClient:
        async with self._create_lock:
            if self._client is None:
                self._client = await trio.to_thread.run_sync(_make_client)
            return self._client


@asynccontextmanager
async def open_body(response: httpx2.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The pieces of a body, which may be left in the middle.

    They come through six nested generators of the library. Closing the outermost leaves the others to the garbage
    collector, where trio warns of them; a cancelled read ends them all, from the innermost outwards.
    """
    import httpx2

    pieces = response.aiter_bytes()
    try:
        yield pieces
    finally:
        with suppress(httpx2.HTTPError), trio.CancelScope() as leave:
            leave.cancel()
            while await anext(pieces, None):  # noqa: ASYNC102 - it is cancelled already, so it waits for nothing
                pass


def _make_client() -> httpx2.AsyncClient:
    import httpx2

    return httpx2.AsyncClient(
        verify=httpx2.create_ssl_context(),
        # No cap: a turn that waits for a connection would be silent for no reason; running turns have their own.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0),
        mounts=dict.fromkeys(_LOOPBACK),
        follow_redirects=False,
        headers={"accept": "text/event-stream, application/json", "user-agent": "walrusd"},
    )


def _translate_error(error: Exception, context: ProviderContext, idle_timeout_s: float) -> ProviderCallFailed:
    import httpx2

    match error:
        case httpx2.ConnectTimeout():
            return context.failure("provider_timeout", f"took no connection within {CONNECT_TIMEOUT_S:g} s")
        case httpx2.TimeoutException():
            return context.failure("provider_timeout", f"was silent for {idle_timeout_s:g} s")
        case httpx2.RemoteProtocolError() if "disconnected" in str(error) or "closed" in str(error):
            return context.failure("provider_network", "cut the connection in the middle of its answer")
        case httpx2.RemoteProtocolError() | httpx2.DecodingError():
            return context.failure("provider_bad_response", "answered something that is not HTTP", detail=str(error))
        case httpx2.ConnectError() | httpx2.ProxyError():
            return context.failure("provider_network", "cannot be reached", detail=_root_cause_text(error))
        case httpx2.NetworkError():
            return context.failure(
                "provider_network", "cut the connection in the middle of its answer", detail=_root_cause_text(error)
            )
        case _:
            return context.failure("provider_network", "was not asked", detail=str(error), retryable=False)


def _root_cause_text(error: BaseException) -> str:
    """The system's own words, which stand at the end of the chain of causes."""
    while True:
        below = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
        if below is None:
            return str(error)
        error = below


def parse_retry_after(headers: Mapping[str, str], clock: Clock) -> float:
    """How long the provider asks to be left alone: seconds, milliseconds or a date; 0 where it does not say."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime  # 10 ms, for a form that hardly anyone uses

    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - clock())
    except ValueError:
        return 0.0
