"""Any OpenAI-compatible chat-completions server: one exchange from request to reply, and its failures."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING

import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_config.schema import Provider
from walrusd.ports import Clock, ModelRequest, Reply, Said, Say
from walrusd.providers.failures import ExchangeFailed, Place
from walrusd.providers.http import Http, body_of, retry_after_s
from walrusd.providers.openai_answer import Answer, ErrorInStream, Malformed
from walrusd.providers.openai_wire import message_encoder, request_body
from walrusd.providers.retry import with_retries
from walrusd.providers.sse import EventStream, EventTooLarge

if TYPE_CHECKING:
    import httpx2

DEFAULT_BASE_URL = "https://api.openai.com/v1"
MAX_ERROR_BODY = 64 * 1024
"""Bytes read of an error's body."""
MAX_WHOLE = 16 * 1024 * 1024
"""Bytes of an answer that comes whole."""
MAX_STREAM = 256 * 1024 * 1024
"""Bytes of one stream. Frames around single tokens are some sixty times the text, which has a cap of its own."""
AFTERWARDS_S = 0.25
"""What a server may take to end its body after it said that it is done; only then can its connection be kept."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where and how to ask."""

    provider: str
    base_url: str
    headers: Mapping[str, str]
    secrets: tuple[str, ...]
    timeout_s: float
    idle_timeout_s: float
    max_retries: int

    @property
    def url(self) -> str:
        return f"{self.base_url.rstrip('/')}/chat/completions"

    @property
    def host(self) -> str:
        """Host and port, without what else an URL may carry."""
        return _authority(self.base_url).rpartition("@")[2]

    def place(self, model: str) -> Place:
        return Place(provider=self.provider, host=self.host, model=model, secrets=self.secrets)


def endpoint(name: str, settings: Provider) -> Endpoint:
    """The endpoint that a table of walrus.toml describes. Its own headers win over ours."""
    key = settings.api_key.reveal() if settings.api_key else ""
    extra = {header.lower(): value.reveal() for header, value in settings.headers.items()}
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {}), **extra}
    userinfo = _authority(settings.base_url).rpartition("@")[0]
    return Endpoint(
        provider=name,
        base_url=settings.base_url or DEFAULT_BASE_URL,
        headers=headers,
        secrets=tuple(secret for secret in (key, *extra.values(), userinfo, userinfo.partition(":")[2]) if secret),
        timeout_s=settings.timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        max_retries=settings.max_retries,
    )


def _authority(url: str) -> str:
    """By hand, for an error must be told of an URL that cannot be parsed, too."""
    return url.partition("://")[2].partition("/")[0]


class OpenAI:
    """Asks one endpoint. Fills the Model port, but that the price of a reply is not known here."""

    def __init__(
        self,
        at: Endpoint,
        http: Http,
        *,
        max_output_tokens: Callable[[str], int | None] = lambda model: None,
        random: Random | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._at = at
        self._max_output_tokens = max_output_tokens
        self._http = http
        self._random = random or Random()  # noqa: S311 - jitter, not a secret
        self._clock = clock
        self._encode = message_encoder(at.provider)
        # OpenAI's newer models refuse max_tokens; most other servers know nothing else.
        self._completion_tokens = at.host == _authority(DEFAULT_BASE_URL)

    async def reply(self, request: ModelRequest, say: Say) -> Reply:
        """One answer, retried where that may help. Raises ModelFailed."""
        place = self._at.place(request.model)
        body = request_body(
            request,
            request.history.rendered(f"openai:{self._at.provider}", self._encode),
            max_output_tokens=self._max_output_tokens(request.model),
            completion_tokens=self._completion_tokens,
        )
        # No two answers of a conversation stand at the same length of it, so ids made from that are never given twice.
        call_prefix = f"call_{len(request.history.messages)}"
        reply = await with_retries(
            lambda heard: self._ask(place, body, Answer(self._at.provider, call_prefix), heard),
            say,
            provider=self._at.provider,
            max_retries=self._at.max_retries,
            random=self._random,
        )
        return replace(reply, model=request.model, provider=self._at.provider)

    async def _ask(self, place: Place, body: bytes, answer: Answer, say: Say) -> Reply:
        """One exchange. Once a finish reason has come, all that can still be lost is the usage."""
        at = self._at
        with trio.move_on_after(at.timeout_s) as whole:
            try:
                async with self._http.post(
                    at.url, at.headers, body, idle_timeout_s=at.idle_timeout_s, place=place
                ) as response:
                    await self._hear(response, place, answer, say)
            except ExchangeFailed:
                if not answer.finished:
                    raise
        if whole.cancelled_caught and not answer.finished:
            raise place.failed("provider_timeout", f"was not done within {at.timeout_s:g} s", retryable=False)
        return answer.reply()

    async def _hear(self, response: httpx2.Response, place: Place, answer: Answer, say: Say) -> None:
        try:
            if response.status_code != 200:
                wait = retry_after_s(response.headers, self._clock)
                raise place.refused(response.status_code, await _read(response, MAX_ERROR_BODY), retry_after_s=wait)
            if "json" in response.headers.get("content-type", ""):
                await _hear_whole(response, place, answer, say)
            else:
                await _hear_stream(response, place, answer, say)
        except ErrorInStream as error:
            raise place.refused(None, error.body) from error
        except (Malformed, EventTooLarge) as error:
            raise place.failed("provider_bad_response", "answered something unreadable", said=str(error)) from error


async def _hear_whole(response: httpx2.Response, place: Place, answer: Answer, say: Say) -> None:
    """An answer in one piece, from a server that does not stream."""
    body = await _read(response, MAX_WHOLE)
    _pass_on(answer.add(body), say)
    if not answer.begun:
        raise place.failed("provider_bad_response", "answered no message", said=body.decode(errors="replace"))


async def _hear_stream(response: httpx2.Response, place: Place, answer: Answer, say: Say) -> None:
    events, size, first = EventStream(), 0, b""
    async with body_of(response) as chunks:
        async for chunk in chunks:
            size += len(chunk)
            first = first or chunk
            if size > MAX_STREAM:
                raise Malformed(f"the stream is longer than {MAX_STREAM:,} bytes")
            _pass_on([said for event in events.feed(chunk) for said in answer.add(event.data)], say)
            if answer.done:
                await _read_out(chunks)
                return
    if answer.finished:
        return
    if first and not answer.begun:
        text = first.decode(errors="replace")
        raise place.failed("provider_bad_response", "answered something that is no stream of events", said=text)
    raise place.failed("provider_network", "ended its stream in the middle of the answer")


async def _read_out(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the last word, so that the connection can be used again."""
    with trio.move_on_after(AFTERWARDS_S):
        async for _ in chunks:
            pass


async def _read(response: httpx2.Response, cap: int) -> bytes:
    """The body, or its first `cap` bytes."""
    body = bytearray()
    async with body_of(response) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) >= cap:
                break
    return bytes(body[:cap])


def _pass_on(pieces: list[Said], say: Say) -> None:
    """What came in one read is said in one piece a kind: a listener that is behind is not helped by crumbs."""
    for kind, group in groupby(pieces, type):
        say(kind("".join(piece.text for piece in group)))
