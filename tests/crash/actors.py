"""The scripted model, tools and hook of a crash-test run; they kill the process at their kill points."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import trio
from msgspec import Struct

from tests.crash.kill_points import KillPoints
from tests.crash.killable_log import KillableLog
from tests.crash.scheduler_control import SchedulerControl, make_draft_due
from tests.crash.side_records import SideRecords
from tests.fakes.validators import violations
from walrus_protocol.content import Assistant, Message, ToolCall, ToolSchema, User, plain_text
from walrus_protocol.events import AnyEvent, AnyLiveEvent, RunningOutput, ToolResult
from walrusd.composition.agents import ToolsHook
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.child import Child
from walrusd.host.spawner import Spawner
from walrusd.ports import ModelRequest, OnChunk, Reply, ReplyChunk, TextChunk, ThinkingChunk, ToolRequest, ToolRun
from walrusd.tools.bash import BashTool

LONG_OUTPUT = "some output, " * 20
"""An output of 260 bytes, more than the tool's `max_output_bytes`, so it is stored separately."""
GO_PIPE = "go"
"""Name of a named pipe. The bash command waits for a line from it after it has begun."""


class PlannedReply(Struct, frozen=True):
    """One reply of the model: its chunks, then its calls as (tool, arguments)."""

    chunks: tuple[ReplyChunk, ...]
    calls: tuple[tuple[str, dict[str, object]], ...] = ()


PLANNED_REPLIES = {
    "hello": PlannedReply((TextChunk("Hi."),)),
    "work": PlannedReply(
        (ThinkingChunk("Hm."), TextChunk("I "), TextChunk("look.")),
        (
            ("peek", {"mark": "peek one"}),
            ("peek", {"mark": "peek two"}),
            ("touch", {"mark": "touch one"}),
            ("forbidden", {}),
            ("bash", {"command": f"echo bash >> trace; echo begun; read -r _ < {GO_PIPE}; echo done"}),
        ),
    ),
    "work, after peek": PlannedReply(
        (TextChunk("I count."),), (("count", {"mark": "count"}), ("touch", {"mark": "touch two"}))
    ),
    "work, after count": PlannedReply((TextChunk("It is "), TextChunk("done."))),
    "more": PlannedReply((TextChunk("More."),)),
    "hurry": PlannedReply((TextChunk("I do."),)),
    "aside": PlannedReply((TextChunk("Beside."),)),
    "again": PlannedReply((TextChunk("Anew."),)),
}
SYNC_POINT_AT_SECOND_CHUNK = {"work": "more"}
"""Sync point that a reply reaches before its second chunk, by the name of the reply."""


def reply_name_for(messages: Sequence[Message]) -> str:
    """Returns the key in PLANNED_REPLIES.

    It depends on the conversation only, so a restart does not change it.
    """
    topic, called = "", set[str]()
    for message in messages:
        match message:
            case User(content):
                text = plain_text(content)
                if text in PLANNED_REPLIES and not (text == "hurry" and topic == "work"):
                    topic, called = text, set()
            case Assistant(calls=calls):
                called |= {call.name for call in calls}
            case _:
                pass
    if topic != "work" or "peek" not in called:
        return topic
    return "work, after count" if "count" in called else "work, after peek"


class KillableModel:
    """A model with kill points when it is called, after each reply chunk, and after the whole reply.

    Records each message sequence that a provider would refuse.
    """

    def __init__(self, control: SchedulerControl, log: KillableLog, records: SideRecords) -> None:
        self._control = control
        self._log = log
        self._records = records

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        messages = request.history.messages
        for violation in violations(messages):
            self._records.write("violation", f"{violation} in {messages}")
        name = reply_name_for(messages)
        planned, reach = PLANNED_REPLIES[name], self._control.kill_points.reach
        await self._control.wait_released()
        reach(f"model called: {name}")
        for number, chunk in enumerate(planned.chunks, 1):
            if number == 2 and name in SYNC_POINT_AT_SECOND_CHUNK:
                await self._control.reach_sync_point(SYNC_POINT_AT_SECOND_CHUNK[name])
            on_chunk(chunk)
            reach(f"reply chunk “{chunk.text}”")
            if name.startswith("work"):
                await self._wait_for_draft()
        reach(f"model reply complete: {name}")
        calls = tuple(
            ToolCall(f"call_{len(messages)}_{number}", tool, arguments)
            for number, (tool, arguments) in enumerate(planned.calls)
        )
        return Reply(
            content="".join(chunk.text for chunk in planned.chunks if isinstance(chunk, TextChunk)),
            thinking="".join(chunk.text for chunk in planned.chunks if isinstance(chunk, ThinkingChunk)),
            calls=calls,
            finish="tool_calls" if calls else "stop",
            cost_usd=0.0,
        )

    async def _wait_for_draft(self) -> None:
        """Makes a draft due, and waits until it is durable or refused."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._log.wait_draft_settled)
            await make_draft_due()


class EffectTool:
    """A tool whose effect is a line in the trace file."""

    def __init__(
        self,
        name: str,
        effect: Callable[[str], Awaitable[str]],
        kind: Literal["plain", "reads", "idempotent"] = "plain",
    ) -> None:
        self.schema = ToolSchema(
            name=name,
            description=f"The tool {name}.",
            parameters={"type": "object"},
            read_only=kind == "reads",
            idempotent=kind == "idempotent",
            max_output_bytes=100,
        )
        self._effect = effect

    async def execute(self, run: ToolRun) -> str:
        return await self._effect(str(run.arguments["mark"]))


class ScriptedTools:
    """The effects of the tools. Of the two concurrent calls the second ends first."""

    def __init__(self, control: SchedulerControl, folder: Path) -> None:
        self._control = control
        self._trace = os.open(folder / "trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.first_peek_started = trio.Event()
        self.second_peek_done = trio.Event()

    async def run_effect(self, mark: str) -> str:
        if mark == "peek one":
            self.first_peek_started.set()
        self._control.kill_points.reach(f"{mark} begins")
        os.write(self._trace, f"{mark}\n".encode())
        self._control.kill_points.reach(f"{mark} has taken effect")
        match mark:
            case "peek one":
                await self.second_peek_done.wait()
            case "peek two":
                return LONG_OUTPUT
            case "count":
                await self._control.reach_sync_point("hurry")
            case _:
                await trio.lowlevel.checkpoint()
        return "done"

    def tools(self) -> Mapping[str, EffectTool | BashTool]:
        return {
            "peek": EffectTool("peek", self.run_effect, "reads"),
            "touch": EffectTool("touch", self.run_effect),
            "forbidden": EffectTool("forbidden", self.run_effect),
            "count": EffectTool("count", self.run_effect, "idempotent"),
            "bash": BashTool(),
        }


class KillableSpawner(Spawner):
    """A spawner with kill points before and after the spawn of the bash process."""

    def set_kill_points(self, kill_points: KillPoints) -> None:
        self._kill_points = kill_points

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        stdin: Literal["null", "pipe"] = "null",
        stderr: Literal["merged", "pipe"] = "merged",
        with_start_barrier: bool = False,
    ) -> Child:
        self._kill_points.reach("bash: before the spawn")
        child = await super().spawn(
            argv,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stderr=stderr,
            with_start_barrier=with_start_barrier,
        )
        self._kill_points.reach("bash: its process waits at the start barrier")
        return child


class KillableHook(ToolsHook):
    """The daemon's hook for tools; it records published events, and releases bash after its first output."""

    observes_live_events = True

    def __init__(
        self, pipeline: Pipeline, control: SchedulerControl, tools: ScriptedTools, records: SideRecords, folder: Path
    ) -> None:
        super().__init__(pipeline)
        self._control = control
        self._tools = tools
        self._records = records
        self._go_pipe = os.open(folder / GO_PIPE, os.O_RDWR | os.O_NONBLOCK)

    def on_event(self, agent: str, event: AnyEvent) -> None:
        if isinstance(event, ToolResult) and event.call_id.endswith("_1"):
            self._tools.second_peek_done.set()
        self._records.record_published(event)

    def on_live_event(self, agent: str, event: AnyLiveEvent) -> None:
        if isinstance(event, RunningOutput) and event.text == "begun\n":
            self._control.kill_points.reach("bash: its command runs")
            os.write(self._go_pipe, b"\n")
        self._records.record_published(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await self._control.wait_released()
        arguments = request.call.arguments
        if isinstance(arguments, dict) and arguments.get("mark") == "peek two":
            await self._tools.first_peek_started.wait()
        return await super().dispatch(request)
