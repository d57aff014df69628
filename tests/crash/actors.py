"""Who acts in a life: a model, tools of every kind, and the hook through which they are called."""

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
from walrus_protocol.events import AnyEvent, RunningOutput, ToolResult
from walrusd.composition.apply_config import DaemonHook
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.child import Child
from walrusd.host.spawner import Spawner
from walrusd.observability.metrics import Metrics
from walrusd.ports import ModelRequest, OnChunk, Reply, ReplyChunk, TextChunk, ThinkingChunk, ToolRequest, ToolRun
from walrusd.tools.bash import BashTool

LONG_OUTPUT = "all there is, " * 20
GO_PIPE = "go"
"""A named pipe: the process of bash has begun, and waits for a line from it."""


class PlannedReply(Struct, frozen=True):
    """What the model says when it is due."""

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
    "work, seen": PlannedReply(
        (TextChunk("I count."),), (("count", {"mark": "count"}), ("touch", {"mark": "touch two"}))
    ),
    "work, counted": PlannedReply((TextChunk("It is "), TextChunk("done."))),
    "more": PlannedReply((TextChunk("More."),)),
    "hurry": PlannedReply((TextChunk("I do."),)),
    "aside": PlannedReply((TextChunk("Beside."),)),
    "again": PlannedReply((TextChunk("Anew."),)),
}
SYNC_POINT_AT_SECOND_CHUNK = {"work": "more"}


def reply_name_for(messages: Sequence[Message]) -> str:
    """Which line, by the conversation alone: a restart changes nothing."""
    topic, called = "", set[str]()
    for message in messages:
        match message:
            case User(content):
                said = plain_text(content)
                if said in PLANNED_REPLIES and not (said == "hurry" and topic == "work"):
                    topic, called = said, set()
            case Assistant(calls=calls):
                called |= {call.name for call in calls}
            case _:
                pass
    if topic != "work" or "peek" not in called:
        return topic
    return "work, counted" if "count" in called else "work, seen"


class KillableModel:
    """Asked, at every piece, and when it has answered, it may be the last."""

    def __init__(self, control: SchedulerControl, log: KillableLog, records: SideRecords) -> None:
        self._control = control
        self._log = log
        self._records = records

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        messages = request.history.messages
        for wrong in violations(messages):
            self._records.write("wrong", f"{wrong} in {messages}")
        name = reply_name_for(messages)
        line, passing = PLANNED_REPLIES[name], self._control.kill_points.reach
        await self._control.wait_released()
        passing(f"the model is asked: {name}")
        for number, piece in enumerate(line.chunks, 1):
            if number == 2 and name in SYNC_POINT_AT_SECOND_CHUNK:
                await self._control.reach_sync_point(SYNC_POINT_AT_SECOND_CHUNK[name])
            on_chunk(piece)
            passing(f"the model has said “{piece.text}”")
            if name.startswith("work"):
                await self._wait_for_draft()
        passing(f"the model has answered: {name}")
        asked = tuple(
            ToolCall(f"call_{len(messages)}_{number}", tool, arguments)
            for number, (tool, arguments) in enumerate(line.calls)
        )
        return Reply(
            content="".join(piece.text for piece in line.chunks if isinstance(piece, TextChunk)),
            thinking="".join(piece.text for piece in line.chunks if isinstance(piece, ThinkingChunk)),
            calls=asked,
            finish="tool_calls" if asked else "stop",
            cost_usd=0.0,
        )

    async def _wait_for_draft(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._log.wait_draft_settled)
            await make_draft_due()


class EffectTool:
    """A tool whose effect is a line in a file."""

    def __init__(
        self,
        name: str,
        effect: Callable[[str], Awaitable[str]],
        kind: Literal["plain", "reads", "idempotent"] = "plain",
    ) -> None:
        self.schema = ToolSchema(
            name=name,
            description=f"It is {name}.",
            parameters={"type": "object"},
            read_only=kind == "reads",
            idempotent=kind == "idempotent",
            max_output_bytes=100,
        )
        self._effect = effect

    async def execute(self, run: ToolRun) -> str:
        return await self._effect(str(run.arguments["mark"]))


class ScriptedTools:
    """What the tools do, and in which order those do it that run side by side: the second ends first."""

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
        return "seen"

    def tools(self) -> Mapping[str, EffectTool | BashTool]:
        return {
            "peek": EffectTool("peek", self.run_effect, "reads"),
            "touch": EffectTool("touch", self.run_effect),
            "forbidden": EffectTool("forbidden", self.run_effect),
            "count": EffectTool("count", self.run_effect, "idempotent"),
            "bash": BashTool(),
        }


class KillableSpawner(Spawner):
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
        dies_with_daemon: bool = True,
    ) -> Child:
        self._kill_points.reach("bash: its process is ordered")
        child = await super().spawn(
            argv,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stderr=stderr,
            with_start_barrier=with_start_barrier,
            dies_with_daemon=dies_with_daemon,
        )
        self._kill_points.reach("bash: its process waits behind its gate")
        return child


class KillableHook(DaemonHook):
    """The daemon's. What it is shown is noted; what bash says is its cue."""

    def __init__(
        self, pipeline: Pipeline, control: SchedulerControl, tools: ScriptedTools, records: SideRecords, folder: Path
    ) -> None:
        super().__init__(pipeline, Metrics("mortal"))
        self._control = control
        self._tools = tools
        self._records = records
        self._go_pipe = os.open(folder / GO_PIPE, os.O_RDWR | os.O_NONBLOCK)

    def on_event(self, agent: str, event: AnyEvent) -> None:
        super().on_event(agent, event)
        match event:
            case RunningOutput(text="begun\n"):
                self._control.kill_points.reach("bash: its process is at work")
                os.write(self._go_pipe, b"\n")
            case ToolResult(call_id=call) if call.endswith("_1"):
                self._tools.second_peek_done.set()
            case _:
                pass
        self._records.record_published(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await self._control.wait_released()
        arguments = request.call.arguments
        if isinstance(arguments, dict) and arguments.get("mark") == "peek two":
            await self._tools.first_peek_started.wait()
        return await super().dispatch(request)
