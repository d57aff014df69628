"""Fills homes with sessions before a daemon starts.

It uses the daemon's own runtime and store in this process.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from benchmarks.turns import TEXT
from walrus_protocol.content import ToolCall, Usage
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, OnChunk, Reply
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.store.sqlite import SqliteLog

ROUNDS = 99
"""Number of rounds in a long turn: five events in each, and three more around them."""
LONG_TURN = 5 * ROUNDS + 3
"""Number of events in a long turn."""
MESSAGES_PER_STEERED_TURN = 32
"""Number of messages in a turn that is steered in each round.

The turn has sixteen rounds, the default limit of an agent.
"""


class FixedReplyModel:
    """A model that always gives the same answer immediately."""

    async def reply(self, _: ModelRequest, __: OnChunk) -> Reply:
        return Reply(content="A short answer, as a model gives it when it is asked little.", usage=Usage(input=40))


@asynccontextmanager
async def open_runtime(home: Path) -> AsyncIterator[Runtime]:
    """Opens a runtime on the home's store. It need not survive a power cut, because a daemon follows."""
    store = await SqliteLog.open(str(home / "walrus.db"), durability="normal")
    try:
        async with Runtime(FixedReplyModel(), log=store) as runtime:
            runtime.add_agent(Agent(name="walrus", model="say"))
            yield runtime
    finally:
        await store.aclose()


async def create_live_session(runtime: Runtime) -> LiveSession:
    """Creates a session; it stays in memory while it is among the latest used ones."""
    live = runtime.session_cache.find_live(await runtime.create_session("walrus"))
    assert live is not None
    return live


async def create_one_turn_sessions(home: Path, count: int) -> None:
    async with open_runtime(home) as runtime:
        remaining = iter(range(count))

        async def fill() -> None:
            for _ in remaining:
                await runtime.send_to(await runtime.create_session("walrus"), TEXT)

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(fill)


async def create_session_of_turns(home: Path, turns: int) -> int:
    """Creates a session with `turns` short turns; returns its id."""
    async with open_runtime(home) as runtime:
        session = await runtime.create_session("walrus")
        for _ in range(turns):
            await runtime.send_to(session, TEXT)
        return session


async def create_session_of_messages(home: Path, count: int) -> int:
    """Creates a session with `count` messages in steered turns of sixteen rounds; returns its id."""
    async with open_runtime(home) as runtime:
        session = await runtime.create_session("walrus")
        async with runtime.session_cache.lease(session) as live:
            for start in range(0, count, MESSAGES_PER_STEERED_TURN):
                events: list[AnySessionEvent] = []
                for number in range(min(MESSAGES_PER_STEERED_TURN, count - start) // 2):
                    events.append(UserMessage(content=TEXT, kind="steer" if number else "message"))
                    answer = "A short answer, as a model gives it when it is asked little."
                    events.append(AssistantMessage(round=number + 1, content=answer, model="say", provider="bench"))
                await live.recorder.record(*events, Done(stop_reason="text_response"))
        return session


async def create_session_of_events(home: Path, count: int) -> int:
    """Creates a session with at least `count` events in long turns of tool calls; returns its id."""
    async with open_runtime(home) as runtime:
        session = await runtime.create_session("walrus")
        async with runtime.session_cache.lease(session) as live:
            for _ in range(-(-count // LONG_TURN)):
                await live.recorder.record(*long_turn_events())
        return session


def long_turn_events() -> list[AnySessionEvent]:
    events: list[AnySessionEvent] = [UserMessage(content=TEXT)]
    for number in range(ROUNDS):
        call = ToolCall(f"call_{number}", "read", {"path": "notes.md"})
        events += [
            AssistantMessage(round=number + 1, calls=(call,), finish="tool_calls", model="say", provider="bench"),
            ToolCallsStart(calls=(call,)),
            ToolStarted(call_id=call.id, name="read"),
            ToolResult(call_id=call.id, name="read", output="x" * 64, bytes=64),
            ToolCallsComplete(count=1),
        ]
    answer = AssistantMessage(round=ROUNDS + 1, content="That is what the notes say.", model="say", provider="bench")
    return [*events, answer, Done(stop_reason="text_response")]
