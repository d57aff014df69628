"""Sessions as a kill leaves them: a turn open in each, cut off at one of four points."""

import os
from pathlib import Path

import trio

from benchmarks import seed
from benchmarks.turns import TEXT
from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
    Process,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrusd.host.procfs import boot_id, look
from walrusd.runtime.record import Beside
from walrusd.runtime.sessions import LiveSession
from walrusd.session.mend import Draft
from walrusd.store.log import Queued

PAST = 10
"""Turns that each session had before."""
QUEUED = 2
"""Messages that wait in a fourth of the sessions."""
NOBODY = 1 << 30
"""A process number that no kernel gives."""


async def sessions_cut_off(home: Path, count: int) -> tuple[dict[int, int], int]:
    """So many of them, each with the number of messages that wait in it; and the log's last offset."""
    points = (_in_mid_stream, _in_a_command, _before_the_first_word, _in_a_call_to_repeat)
    async with seed.past(home) as runtime:
        left = iter(range(count))
        made: dict[int, int] = {}

        async def fill() -> None:
            for number in left:
                live = await runtime.live(await runtime.create_session("walrus"))
                for _ in range(PAST):
                    await live.recorder.record(
                        UserMessage(content=TEXT),
                        AssistantMessage(round=1, content="A short answer.", model="say", provider="bench"),
                        Done(stop_reason="text_response"),
                    )
                events, beside = points[number % len(points)](live)
                await live.recorder.record(UserMessage(content=TEXT))
                await live.recorder.record(*events, beside=beside)
                made[live.id] = len(live.inbox)

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(fill)
        return made, runtime.log.last_offset()


def _in_mid_stream(_: LiveSession) -> tuple[list[Durable], Beside]:
    return [], Beside(draft=Draft(turn=PAST + 1, round=1, text="A short answer, as a model", model="say"))


def _before_the_first_word(live: LiveSession) -> tuple[list[Durable], Beside]:
    """With messages that wait."""
    waiting = (Queued(place=live.place(), kind="message", content=TEXT) for _ in range(QUEUED))
    return [], Beside(enqueue=tuple(waiting))


def _in_a_command(_: LiveSession) -> tuple[list[Durable], Beside]:
    """Of three calls one is done, one has begun, one has not. The command's process is gone by the next start."""
    here = look(os.getpid())
    assert here is not None, "this process runs"
    read = ToolCall("call_0", "read", {"path": "notes.md"})
    commands = tuple(ToolCall(f"call_{number}", "bash", {"command": "make"}) for number in (1, 2))
    process = Process(pgid=NOBODY, start=here.start, boot=boot_id())
    return [
        *_asked(read, *commands),
        ToolStarted(call_id=read.id, name="read"),
        ToolResult(call_id=read.id, name="read", output="x" * 64, bytes=64),
        ToolStarted(call_id=commands[0].id, name="bash", process=process),
    ], Beside()


def _in_a_call_to_repeat(_: LiveSession) -> tuple[list[Durable], Beside]:
    call = ToolCall("call_0", "read", {"path": "notes.md"})
    return [*_asked(call), ToolStarted(call_id=call.id, name="read")], Beside()


def _asked(*calls: ToolCall) -> list[Durable]:
    asked = AssistantMessage(round=1, calls=calls, finish="tool_calls", model="say", provider="bench")
    return [asked, ToolCallsStart(calls=calls)]
