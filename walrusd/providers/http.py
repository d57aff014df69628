"""The HTTP client of all providers: created at the first request; it translates the errors of httpx2.

httpx2 is imported and its TLS context made in a thread, at the first request. Together they take some 200 ms, which
would delay the daemon's start or block its loop. The usual proxy variables (HTTPS_PROXY, ALL_PROXY, NO_PROXY) and
SSL_CERT_FILE are obeyed, but requests to loopback never use a proxy: a local model is not reached through another host.
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
"""Maximum seconds for opening a connection: three SYNs; a host that has not answered is unreachable."""
CLOSE_TIMEOUT_S = 1.0
"""Maximum seconds that the daemon's stop waits for connections to close cleanly."""
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
        """Yields the response with its body unread.

        Errors of httpx2 in the block are raised as ProviderCallFailed. Leaving the block, also by cancellation, closes
        the connection unless the body was read to its end.
        """
        # Checked before the lock is taken: acquiring it would yield to every other task at each request.
        client = self._client or await self._get_client()
        import httpx2  # already loaded by then

        timeout = httpx2.Timeout(idle_timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with client.stream("POST", url, headers=dict(headers), content=body, timeout=timeout) as response:
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, UnicodeError) as error:
            # UnicodeError: a host name that DNS cannot express; the library lets it pass
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
    """Yields the chunks of a body; the block may be left before the body ends.

    The chunks come through six nested generators of the library. Closing only the outermost leaves the others to the
    garbage collector, where trio warns about them. A cancelled read ends them all, from the innermost outwards.
    """
    import httpx2

    chunks = response.aiter_bytes()
    try:
        yield chunks
    finally:
        with suppress(httpx2.HTTPError), trio.CancelScope() as cancelled:
            cancelled.cancel()
            while await anext(chunks, None):  # noqa: ASYNC102 - it is cancelled already, so it waits for nothing
                pass


def _make_client() -> httpx2.AsyncClient:
    import httpx2

    return httpx2.AsyncClient(
        verify=httpx2.create_ssl_context(),
        # No cap on connections: a turn would wait without a visible reason; running turns have a limit of their own.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0),
        mounts=dict.fromkeys(_LOOPBACK),
        follow_redirects=False,
        headers={"accept": "text/event-stream, application/json", "user-agent": "walrusd"},
    )


def _translate_error(error: Exception, context: ProviderContext, idle_timeout_s: float) -> ProviderCallFailed:
    import httpx2

    match error:
        case httpx2.ConnectTimeout():
            return context.failure("provider_timeout", f"did not accept a connection within {CONNECT_TIMEOUT_S:g} s")
        case httpx2.TimeoutException():
            return context.failure("provider_timeout", f"sent nothing for {idle_timeout_s:g} s")
        case httpx2.RemoteProtocolError() if "disconnected" in str(error) or "closed" in str(error):
            return context.failure("provider_network", "closed the connection in the middle of its answer")
        case httpx2.RemoteProtocolError() | httpx2.DecodingError():
            return context.failure("provider_bad_response", "sent a response that is not valid HTTP", detail=str(error))
        case httpx2.ConnectError() | httpx2.ProxyError():
            return context.failure("provider_network", "cannot be reached", detail=_root_cause_text(error))
        case httpx2.NetworkError():
            return context.failure(
                "provider_network", "closed the connection in the middle of its answer", detail=_root_cause_text(error)
            )
        case _:
            return context.failure("provider_network", "could not be called", detail=str(error), retryable=False)


def _root_cause_text(error: BaseException) -> str:
    """Returns the operating system's error text, which is at the end of the chain of causes."""
    while True:
        cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
        if cause is None:
            return str(error)
        error = cause


def parse_retry_after(headers: Mapping[str, str], clock: Clock) -> float:
    """Returns the seconds that the provider asks to wait, or 0 if it gives none that can be read.

    The headers may give seconds, milliseconds or a date.
    """
    with suppress(ValueError):
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    text = headers.get("retry-after", "0")
    with suppress(ValueError):
        return max(0.0, float(text))
    from email.utils import parsedate_to_datetime  # imported here: it takes 10 ms, and few servers send a date

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - clock())
    except (ValueError, OverflowError):
        return 0.0
