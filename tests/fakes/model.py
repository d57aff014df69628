"""A model whose every reply is in the test's hand."""

from collections.abc import Awaitable, Callable

import trio

from walrus_protocol.content import Message, ToolCall
from walrusd.ports import ModelRequest, Reply, Say, TextSaid

Speaks = Callable[[ModelRequest, Say], Awaitable[Reply]]


class FakeModel:
    """Answers with `speak`; keeps what it was asked."""

    def __init__(self, speak: Speaks | None = None) -> None:
        self.speak = speak or says("ok")
        self.asked: list[list[Message]] = []
        self.most_at_once = 0
        self._now = 0

    async def reply(self, request: ModelRequest, say: Say) -> Reply:
        self.asked.append(list(request.history.messages))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            return await self.speak(request, say)
        finally:
            self._now -= 1


def says(text: str) -> Speaks:
    async def speak(_: ModelRequest, say: Say) -> Reply:
        await trio.lowlevel.checkpoint()
        say(TextSaid(text))
        return Reply(content=text, model="fake", provider="fake", cost_usd=0.0)

    return speak


def in_turn(*speakers: Speaks) -> Speaks:
    """The first speaks first, and so on."""
    left = list(speakers)

    async def speak(request: ModelRequest, say: Say) -> Reply:
        return await left.pop(0)(request, say)

    return speak


def calls(*asked: ToolCall) -> Speaks:
    async def speak(_: ModelRequest, __: Say) -> Reply:
        await trio.lowlevel.checkpoint()
        return Reply(calls=asked, finish="tool_calls", cost_usd=0.0)

    return speak


def fails(failure: Exception, after: str = "") -> Speaks:
    async def speak(_: ModelRequest, say: Say) -> Reply:
        await trio.lowlevel.checkpoint()
        if after:
            say(TextSaid(after))
        raise failure

    return speak


class Gate:
    """A speaker that says `before`, tells that it is `reached`, and waits until it is `opened`."""

    def __init__(self, before: str = "", then: str = "ok") -> None:
        self.reached = trio.Event()
        self.opened = trio.Event()
        self._before = before
        self._then = then

    async def __call__(self, request: ModelRequest, say: Say) -> Reply:
        if self._before:
            say(TextSaid(self._before))
        self.reached.set()
        await self.opened.wait()
        say(TextSaid(self._then))
        return Reply(content=self._before + self._then, cost_usd=0.0)
