"""Who acts in a life: a model, tools of every kind, and the hook through which they are called."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import trio
from msgspec import Struct

from tests.crash.boundaries import Boundaries
from tests.crash.mortal_log import MortalLog
from tests.crash.notes import Notes
from tests.crash.stage import Stage, let_a_draft_be_due
from tests.fakes.validators import complaints
from walrus_protocol.content import Assistant, Message, ToolCall, ToolSchema, User, plain_text
from walrus_protocol.events import AnyEvent, RunningOutput, ToolResult
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.child import Child
from walrusd.host.spawner import Spawner
from walrusd.metrics import Metrics
from walrusd.outfit import DaemonHook
from walrusd.ports import ModelRequest, Reply, Said, Say, TextSaid, ThinkingSaid, ToolRequest, ToolRun
from walrusd.tools.bash import Bash

LONG = "all there is, " * 20
GO = "go"
"""A named pipe: the process of bash has begun, and waits for a line from it."""


class Line(Struct, frozen=True):
    """What the model says when it is due."""

    pieces: tuple[Said, ...]
    calls: tuple[tuple[str, dict[str, object]], ...] = ()


LINES = {
    "hello": Line((TextSaid("Hi."),)),
    "work": Line(
        (ThinkingSaid("Hm."), TextSaid("I "), TextSaid("look.")),
        (
            ("peek", {"mark": "peek one"}),
            ("peek", {"mark": "peek two"}),
            ("touch", {"mark": "touch one"}),
            ("forbidden", {}),
            ("bash", {"command": f"echo bash >> trace; echo begun; read -r _ < {GO}; echo done"}),
        ),
    ),
    "work, seen": Line((TextSaid("I count."),), (("count", {"mark": "count"}), ("touch", {"mark": "touch two"}))),
    "work, counted": Line((TextSaid("It is "), TextSaid("done."))),
    "more": Line((TextSaid("More."),)),
    "hurry": Line((TextSaid("I do."),)),
    "aside": Line((TextSaid("Beside."),)),
    "again": Line((TextSaid("Anew."),)),
}
AT_THE_SECOND_PIECE = {"work": "more"}


def due(messages: Sequence[Message]) -> str:
    """Which line, by the conversation alone: a restart changes nothing."""
    topic, called = "", set[str]()
    for message in messages:
        match message:
            case User(content):
                said = plain_text(content)
                if said in LINES and not (said == "hurry" and topic == "work"):
                    topic, called = said, set()
            case Assistant(calls=calls):
                called |= {call.name for call in calls}
            case _:
                pass
    if topic != "work" or "peek" not in called:
        return topic
    return "work, counted" if "count" in called else "work, seen"


class MortalModel:
    """Asked, at every piece, and when it has answered, it may be the last."""

    def __init__(self, stage: Stage, log: MortalLog, notes: Notes) -> None:
        self._stage = stage
        self._log = log
        self._notes = notes

    async def reply(self, request: ModelRequest, say: Say) -> Reply:
        messages = request.history.messages
        for wrong in complaints(messages):
            self._notes.write("wrong", f"{wrong} in {messages}")
        name = due(messages)
        line, passing = LINES[name], self._stage.boundaries.passing
        await self._stage.enter()
        passing(f"the model is asked: {name}")
        for number, piece in enumerate(line.pieces, 1):
            if number == 2 and name in AT_THE_SECOND_PIECE:
                await self._stage.give_cue(AT_THE_SECOND_PIECE[name])
            say(piece)
            passing(f"the model has said “{piece.text}”")
            if name.startswith("work"):
                await self._until_drafted()
        passing(f"the model has answered: {name}")
        asked = tuple(
            ToolCall(f"call_{len(messages)}_{number}", tool, arguments)
            for number, (tool, arguments) in enumerate(line.calls)
        )
        return Reply(
            content="".join(piece.text for piece in line.pieces if isinstance(piece, TextSaid)),
            thinking="".join(piece.text for piece in line.pieces if isinstance(piece, ThinkingSaid)),
            calls=asked,
            finish="tool_calls" if asked else "stop",
            cost_usd=0.0,
        )

    async def _until_drafted(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._log.draft_settled)
            await let_a_draft_be_due()


class Acting:
    """A tool whose effect is a line in a file."""

    def __init__(
        self,
        name: str,
        act: Callable[[str], Awaitable[str]],
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
        self._act = act

    async def execute(self, run: ToolRun) -> str:
        return await self._act(str(run.arguments["mark"]))


class Props:
    """What the tools do, and in which order those do it that run side by side: the second ends first."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        self._trace = os.open(folder / "trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.first_peeks = trio.Event()
        self.second_peeked = trio.Event()

    async def take_effect(self, mark: str) -> str:
        if mark == "peek one":
            self.first_peeks.set()
        self._stage.boundaries.passing(f"{mark} begins")
        os.write(self._trace, f"{mark}\n".encode())
        self._stage.boundaries.passing(f"{mark} has taken effect")
        match mark:
            case "peek one":
                await self.second_peeked.wait()
            case "peek two":
                return LONG
            case "count":
                await self._stage.give_cue("hurry")
            case _:
                await trio.lowlevel.checkpoint()
        return "seen"

    def tools(self) -> Mapping[str, Acting | Bash]:
        return {
            "peek": Acting("peek", self.take_effect, "reads"),
            "touch": Acting("touch", self.take_effect),
            "forbidden": Acting("forbidden", self.take_effect),
            "count": Acting("count", self.take_effect, "idempotent"),
            "bash": Bash(),
        }


class MortalSpawner(Spawner):
    def give(self, boundaries: Boundaries) -> None:
        self._boundaries = boundaries

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        stdin: Literal["null", "pipe"] = "null",
        stderr: Literal["merged", "pipe"] = "merged",
        gated: bool = False,
        dies_with_us: bool = True,
    ) -> Child:
        self._boundaries.passing("bash: its process is ordered")
        child = await super().spawn(
            argv, cwd=cwd, env=env, stdin=stdin, stderr=stderr, gated=gated, dies_with_us=dies_with_us
        )
        self._boundaries.passing("bash: its process waits behind its gate")
        return child


class MortalHook(DaemonHook):
    """The daemon's. What it is shown is noted; what bash says is its cue."""

    def __init__(self, pipeline: Pipeline, stage: Stage, props: Props, notes: Notes, folder: Path) -> None:
        super().__init__(pipeline, Metrics("mortal"))
        self._stage = stage
        self._props = props
        self._notes = notes
        self._go = os.open(folder / GO, os.O_RDWR | os.O_NONBLOCK)

    def on_event(self, agent: str, event: AnyEvent) -> None:
        super().on_event(agent, event)
        match event:
            case RunningOutput(text="begun\n"):
                self._stage.boundaries.passing("bash: its process is at work")
                os.write(self._go, b"\n")
            case ToolResult(call_id=call) if call.endswith("_1"):
                self._props.second_peeked.set()
            case _:
                pass
        self._notes.see(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await self._stage.enter()
        arguments = request.call.arguments
        if isinstance(arguments, dict) and arguments.get("mark") == "peek two":
            await self._props.first_peeks.wait()
        return await super().dispatch(request)
