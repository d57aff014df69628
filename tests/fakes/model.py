"""A fake model for tests: it answers with functions that the test provides."""

from collections.abc import Awaitable, Callable

import trio

from walrus_protocol.content import Message, ToolCall
from walrusd.ports import ModelRequest, OnChunk, Reply, TextChunk

Responder = Callable[[ModelRequest, OnChunk], Awaitable[Reply]]


class FakeModel:
    """A model that answers with `respond` and records the messages of each request."""

    def __init__(self, respond: Responder | None = None) -> None:
        self.respond = respond or replies("ok")
        self.requests: list[list[Message]] = []
        self.max_concurrent = 0
        self._running = 0

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        self.requests.append(list(request.history.messages))
        self._running += 1
        self.max_concurrent = max(self.max_concurrent, self._running)
        try:
            return await self.respond(request, on_chunk)
        finally:
            self._running -= 1


def replies(text: str) -> Responder:
    async def respond(_: ModelRequest, on_chunk: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        on_chunk(TextChunk(text))
        return Reply(content=text, model="fake", provider="fake", cost_usd=0.0)

    return respond


def in_turn(*responders: Responder) -> Responder:
    """Returns a responder that answers each request with the next of the responders."""
    left = list(responders)

    async def respond(request: ModelRequest, on_chunk: OnChunk) -> Reply:
        return await left.pop(0)(request, on_chunk)

    return respond


def calls(*tool_calls: ToolCall) -> Responder:
    async def respond(_: ModelRequest, __: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        return Reply(calls=tool_calls, finish="tool_calls", cost_usd=0.0)

    return respond


def fails(failure: Exception, after: str = "") -> Responder:
    async def respond(_: ModelRequest, on_chunk: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        if after:
            on_chunk(TextChunk(after))
        raise failure

    return respond


class BlockingReply:
    """A responder that emits `text_before`, sets `reached` and waits for `released` before it continues."""

    def __init__(self, text_before: str = "", text_after: str = "ok") -> None:
        self.reached = trio.Event()
        self.released = trio.Event()
        self._text_before = text_before
        self._text_after = text_after

    async def __call__(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        if self._text_before:
            on_chunk(TextChunk(self._text_before))
        self.reached.set()
        await self.released.wait()
        on_chunk(TextChunk(self._text_after))
        return Reply(content=self._text_before + self._text_after, cost_usd=0.0)
