"""Creates sessions as a kill leaves them, each with an open turn interrupted at one of four points."""

import os
from pathlib import Path

import trio

from benchmarks import seed
from benchmarks.turns import TEXT
from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    ProcessGroupId,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrusd.host.procfs import boot_id, read_proc
from walrusd.runtime.recording.recorder import TransactionExtras
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.session.recovery import Draft
from walrusd.store.tables.draft import SaveDraft
from walrusd.store.tables.inbox import Enqueue, InboxEntry

TURNS_BEFORE = 10
"""Number of completed turns in each session before the interrupted one."""
QUEUED_MESSAGES = 2
"""Number of queued messages in a quarter of the sessions."""
UNUSED_PID = 1 << 30
"""A pid that no kernel assigns."""


async def create_crashed_sessions(home: Path, count: int) -> tuple[dict[int, int], int]:
    """Creates `count` sessions; returns the number of queued messages by session, and the last offset."""
    points = (_mid_stream, _mid_command, _before_reply, _mid_repeatable_call)
    async with seed.open_runtime(home) as runtime:
        remaining = iter(range(count))
        queued: dict[int, int] = {}

        async def fill() -> None:
            for number in remaining:
                async with runtime.session_cache.lease(await runtime.create_session("walrus")) as live:
                    for _ in range(TURNS_BEFORE):
                        await live.recorder.record(
                            UserMessage(content=TEXT),
                            AssistantMessage(round=1, content="A short answer.", model="say", provider="bench"),
                            Done(stop_reason="text_response"),
                        )
                    events, extras = points[number % len(points)](live)
                    await live.recorder.record(UserMessage(content=TEXT))
                    await live.recorder.record(*events, extras=extras)
                    queued[live.id] = live.inbox.message_count

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(fill)
        return queued, runtime.log.last_offset()


def _mid_stream(_: LiveSession) -> tuple[list[AnySessionEvent], TransactionExtras]:
    return [], TransactionExtras(
        mutations=(SaveDraft(Draft(turn=TURNS_BEFORE + 1, round=1, text="A short answer, as a model", model="say")),)
    )


def _before_reply(live: LiveSession) -> tuple[list[AnySessionEvent], TransactionExtras]:
    """A turn before its first reply, with queued messages."""
    waiting = (InboxEntry(place=live.inbox.next_place(), kind="message", content=TEXT) for _ in range(QUEUED_MESSAGES))
    return [], TransactionExtras(mutations=(*map(Enqueue, tuple(waiting)),))


def _mid_command(_: LiveSession) -> tuple[list[AnySessionEvent], TransactionExtras]:
    """A turn of three calls: one is done, one has started, one has not.

    The process of the started command no longer exists at the next start.
    """
    own = read_proc(os.getpid())
    assert own is not None, "this process runs"
    read = ToolCall("call_0", "read", {"path": "notes.md"})
    commands = tuple(ToolCall(f"call_{number}", "bash", {"command": "make"}) for number in (1, 2))
    process = ProcessGroupId(pgid=UNUSED_PID, start=own.start, boot=boot_id())
    return [
        *_request_calls(read, *commands),
        ToolStarted(call_id=read.id, name="read"),
        ToolResult(call_id=read.id, name="read", output="x" * 64, bytes=64),
        ToolStarted(call_id=commands[0].id, name="bash", process=process),
    ], TransactionExtras()


def _mid_repeatable_call(_: LiveSession) -> tuple[list[AnySessionEvent], TransactionExtras]:
    call = ToolCall("call_0", "read", {"path": "notes.md"})
    return [*_request_calls(call), ToolStarted(call_id=call.id, name="read")], TransactionExtras()


def _request_calls(*calls: ToolCall) -> list[AnySessionEvent]:
    message = AssistantMessage(round=1, calls=calls, finish="tool_calls", model="say", provider="bench")
    return [message, ToolCallsStart(calls=calls)]
