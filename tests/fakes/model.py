"""A model whose every reply is in the test's hand."""

from collections.abc import Awaitable, Callable

import trio

from walrus_protocol.content import Message, ToolCall
from walrusd.ports import ModelRequest, OnChunk, Reply, TextChunk

Responder = Callable[[ModelRequest, OnChunk], Awaitable[Reply]]


class FakeModel:
    """Answers with `speak`; keeps what it was asked."""

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
    async def speak(_: ModelRequest, say: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        say(TextChunk(text))
        return Reply(content=text, model="fake", provider="fake", cost_usd=0.0)

    return speak


def in_turn(*responders: Responder) -> Responder:
    """The first speaks first, and so on."""
    left = list(responders)

    async def speak(request: ModelRequest, say: OnChunk) -> Reply:
        return await left.pop(0)(request, say)

    return speak


def calls(*tool_calls: ToolCall) -> Responder:
    async def speak(_: ModelRequest, __: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        return Reply(calls=tool_calls, finish="tool_calls", cost_usd=0.0)

    return speak


def fails(failure: Exception, after: str = "") -> Responder:
    async def speak(_: ModelRequest, say: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        if after:
            say(TextChunk(after))
        raise failure

    return speak


class BlockingReply:
    """A speaker that says `before`, tells that it is `reached`, and waits until it is `opened`."""

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
