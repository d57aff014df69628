"""Intents and outputs of tools in the log: an intent before any effect, an output before the result that names it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.dispatch.pipeline_harness import ALLOW, FunctionTool
from tests.fakes.model import FakeModel, calls, in_turn, replies
from walrus_protocol.content import ToolCall
from walrus_protocol.events import ToolResult, decode_row
from walrusd.agent.agent import Agent
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import Redaction
from walrusd.ports import ProcessTool, Tool, ToolRequest, ToolRun
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.store.contract import StorageFull, Write
from walrusd.store.memory import MemoryLog
from walrusd.tools.bash import BashTool


class FullForBody(MemoryLog):
    """Has no room for a write that `what` is in."""

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.text = text

    def submit(self, write: Write) -> None:
        written = [*write.bodies, write.output.body if write.output else b""]
        if any(self.text in body for body in written):
            write.failed(StorageFull("no space is left"))
        else:
            super().submit(write)


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner(umask=0o022) as spawner:
        yield spawner


class PipelineHook(Hook):
    """Tools behind a pipeline, as the daemon's hook has them."""

    def __init__(self, *tools: Tool | ProcessTool, spawner: Spawner | None = None) -> None:
        self.pipeline = Pipeline(
            {tool.schema.name: tool for tool in tools},
            settings={},
            agents={},
            permissions=ALLOW,
            clock=trio.current_time,
            spawner=spawner,
            home="/walrus",
            redact=Redaction(),
        )

    def on_register_tools(self, registry: ToolRegistry) -> None:
        for tool in self.pipeline.schemas:
            registry.register_tool(tool)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        return await self.pipeline.dispatch(request)


async def test_a_command_whose_intent_cannot_be_written_never_runs(tmp_path: Path, spawner: Spawner) -> None:
    call = ToolCall("c1", "bash", {"command": "echo ran >> trace"})
    model, log = FakeModel(in_turn(calls(call), calls(call), replies("ok"))), FullForBody(b'"tool_started"')
    async with Runtime(model, PipelineHook(BashTool(), spawner=spawner), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus", workspace=str(tmp_path)))
        session = await runtime.create_session("walrus")
        ticket = await runtime.send(session, MessageRequest(content="go"))
        await ticket.settled.wait()
        assert ticket.problem is not None
        assert ticket.problem.kind == "storage_full"
        assert spawner.unreaped_count == 0
        assert not (tmp_path / "trace").exists()
        log.text = b"nothing any more"
        (await runtime.live_session(session)).retry_now.set()
        answer = await runtime.send_to(session, "again")
        assert (answer.final_response, (tmp_path / "trace").read_text()) == ("ok", "ran\n")


async def test_outputs_that_are_stored_at_once_are_all_stored_before_their_results() -> None:
    async def say(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        return f"{run.arguments['n']}" * 100_000

    asked = [ToolCall(f"c{n}", "say", {"n": n}) for n in range(4)]
    model, log = FakeModel(in_turn(calls(*asked), replies("ok"))), MemoryLog()
    async with Runtime(model, PipelineHook(FunctionTool("say", say, read_only=True)), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.send_to(session, "go")
        events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
        results = [event for event in events if isinstance(event, ToolResult)]
        kept = {
            event.call_id: await log.output(session, event.ref, 0, 1_000_000)
            for event in results
            if event.ref is not None
        }
    assert kept == {f"c{n}": b"%d" % n * 100_000 for n in range(4)}


async def test_a_result_whose_output_cannot_be_stored_is_not_recorded() -> None:
    async def say(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        return "long" * 100_000

    log = FullForBody(b"longlong")
    async with Runtime(
        FakeModel(calls(ToolCall("c1", "say", {}))), PipelineHook(FunctionTool("say", say)), log=log
    ) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        ticket = await runtime.send(session, MessageRequest(content="go"))
        await ticket.settled.wait()
        assert ticket.problem is not None
        assert ticket.problem.kind == "storage_full"
        (await runtime.live_session(session)).retry_now.set()
        assert await runtime.wait(session, ["error"]) == "error"
        events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
        [result] = [event for event in events if isinstance(event, ToolResult)]
        assert (result.outcome, result.ref) == ("interrupted", None)
