"""The provider for any OpenAI-compatible chat-completions server: one exchange, and its failures."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from walrus_config.schema import OPENAI_URL, ProviderSettings
from walrusd.observability.redaction import Redaction
from walrusd.observability.secrets import provider_secrets
from walrusd.ports import ModelRequest, OnChunk, Reply, ReplyChunk
from walrusd.providers.http import Http, open_body, parse_retry_after
from walrusd.providers.openai_decode import ErrorInStream, MalformedReply, ReplyDecoder
from walrusd.providers.openai_encode import message_encoder, request_body
from walrusd.providers.provider_errors import ProviderCallFailed, ProviderContext
from walrusd.providers.sse import EventStream, EventTooLarge

if TYPE_CHECKING:
    import httpx2

MAX_ERROR_BODY = 64 * 1024
"""Maximum bytes read of an error body, or kept of a stream that is no event stream; see MAX_REDACTED_CHARS."""
MAX_UNSTREAMED_BODY = 16 * 1024 * 1024
"""Maximum bytes of an answer that is not streamed."""
MAX_STREAM = 256 * 1024 * 1024
"""Maximum bytes of one stream.

Frames around single tokens are some sixty times the text, which has its own cap.
"""
DRAIN_TIMEOUT_S = 0.25
"""Maximum seconds for a server to end its body after [DONE]; the connection is reused only if it does."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """The address, headers and limits of one configured server."""

    provider: str
    base_url: str
    headers: Mapping[str, str]
    redact: Redaction
    timeout_s: float
    idle_timeout_s: float
    bad_response_hint: str


def build_endpoint(name: str, settings: ProviderSettings) -> Endpoint:
    """Returns the endpoint that a [providers.*] table describes; its headers override the default ones."""
    key = settings.api_key.reveal() if settings.api_key else ""
    extra = {header.lower(): value.reveal() for header, value in settings.headers.items()}
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {}), **extra}
    return Endpoint(
        provider=name,
        base_url=settings.base_url or OPENAI_URL,
        headers=headers,
        redact=Redaction(provider_secrets(settings)),
        timeout_s=settings.timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        bad_response_hint=f"Check that base_url of [providers.{name}] in walrus.toml is an OpenAI-compatible server.",
    )


def _authority(url: str) -> str:
    """Returns the authority of a URL; split by hand, since an error must also name an unparsable URL."""
    return url.partition("://")[2].partition("/")[0]


class OpenAI:
    """Implements the Provider port for one endpoint."""

    def __init__(self, endpoint: Endpoint, http: Http) -> None:
        self._endpoint = endpoint
        self._http = http
        self._url = f"{endpoint.base_url.rstrip('/')}/chat/completions"
        self._host = _authority(endpoint.base_url).rpartition("@")[2]
        """Host and port, without user info and path."""
        self._encode_message = message_encoder(endpoint.provider)
        # OpenAI's newer models reject max_tokens; most other servers support only that.
        self._uses_max_completion_tokens = self._host == _authority(OPENAI_URL)

    async def exchange(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """Runs one exchange. A failure after the finish reason is ignored: only the usage can then be missing."""
        endpoint = self._endpoint
        context = ProviderContext(
            provider=endpoint.provider,
            host=self._host,
            model=request.model,
            redact=endpoint.redact,
            bad_response_hint=endpoint.bad_response_hint,
        )
        body = request_body(
            request,
            request.history.render(f"openai:{endpoint.provider}", self._encode_message),
            use_max_completion_tokens=self._uses_max_completion_tokens,
        )
        # Each answer of a conversation comes at a different message count, so ids made from the count are unique.
        decoder = ReplyDecoder(endpoint.provider, f"call_{len(request.history.messages)}")
        with trio.move_on_after(endpoint.timeout_s) as deadline:
            try:
                async with self._http.post(
                    self._url, endpoint.headers, body, idle_timeout_s=endpoint.idle_timeout_s, context=context
                ) as response:
                    await _read_response(response, context, decoder, on_chunk)
            except ProviderCallFailed:
                if not decoder.is_complete:
                    raise
        if deadline.cancelled_caught and not decoder.is_complete:
            raise context.failure(
                "provider_timeout", f"did not finish within {endpoint.timeout_s:g} s", retryable=False
            )
        return decoder.build_reply()


async def _read_response(
    response: httpx2.Response, context: ProviderContext, decoder: ReplyDecoder, on_chunk: OnChunk
) -> None:
    try:
        if response.status_code != 200:
            wait = parse_retry_after(response.headers, time.time)
            raise context.failure_from_response(
                response.status_code, await _read_body(response, MAX_ERROR_BODY), retry_after_s=wait
            )
        if "json" in response.headers.get("content-type", ""):
            await _read_whole_reply(response, context, decoder, on_chunk)
        else:
            await _read_stream(response, context, decoder, on_chunk)
    except ErrorInStream as error:
        raise context.failure_from_response(None, error.body) from error
    except (MalformedReply, EventTooLarge) as error:
        raise context.failure("provider_bad_response", "sent a malformed answer", detail=str(error)) from error


async def _read_whole_reply(
    response: httpx2.Response, context: ProviderContext, decoder: ReplyDecoder, on_chunk: OnChunk
) -> None:
    """Reads an answer in one piece, from a server that does not stream."""
    body = await _read_body(response, MAX_UNSTREAMED_BODY)
    chunks: list[ReplyChunk] = []
    decoder.add(body, chunks)
    for chunk in _join_neighbours(chunks):
        on_chunk(chunk)
    if not decoder.started:
        raise context.failure(
            "provider_bad_response", "sent an answer without a message", detail=body.decode(errors="replace")
        )


async def _read_stream(
    response: httpx2.Response, context: ProviderContext, decoder: ReplyDecoder, on_chunk: OnChunk
) -> None:
    events, size, head = EventStream(), 0, b""
    async with open_body(response) as chunks:
        async for chunk in chunks:
            size += len(chunk)
            if not decoder.started and len(head) < MAX_ERROR_BODY:
                head += chunk
            if size > MAX_STREAM:
                raise MalformedReply(f"the stream is longer than {MAX_STREAM:,} bytes")
            pieces: list[ReplyChunk] = []
            for event in events.feed(chunk):
                decoder.add(event.data, pieces)
            for piece in pieces if len(pieces) < 2 else _join_neighbours(pieces):
                on_chunk(piece)
            if decoder.done_received:
                await _drain(chunks)
                return
    if decoder.is_complete:
        return
    if head and not decoder.started:
        text = head.decode(errors="replace")
        raise context.failure("provider_bad_response", "sent something that is not an event stream", detail=text)
    raise context.failure("provider_network", "ended its stream in the middle of the answer")


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Reads the rest of the body after [DONE], so that the connection can be reused."""
    with trio.move_on_after(DRAIN_TIMEOUT_S):
        async for _ in chunks:
            pass


async def _read_body(response: httpx2.Response, cap: int) -> bytes:
    """Returns the body, or its first `cap` bytes."""
    body = bytearray()
    async with open_body(response) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) >= cap:
                break
    return bytes(body[:cap])


def _join_neighbours(pieces: list[ReplyChunk]) -> list[ReplyChunk]:
    """Joins neighbouring pieces of one kind: fewer chunks help a slow subscriber."""
    return [kind("".join(piece.text for piece in group)) for kind, group in groupby(pieces, type)]
