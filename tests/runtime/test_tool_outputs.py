"""Tests the order of a call's writes: `tool_started`, then effects, then the output, then the result."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.dispatch.pipeline_harness import ALLOW, FunctionTool
from tests.fakes.live_session import live_session
from tests.fakes.memory_log import MemoryLog
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
from walrusd.store.contract import Write
from walrusd.store.errors import StorageFull
from walrusd.store.tables.output import AddOutput, read_output
from walrusd.tools.bash import BashTool


class FullForBody(MemoryLog):
    """A log that refuses each write with `text` in it, as if the disk were full."""

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.text = text

    def submit(self, write: Write) -> None:
        outputs = [mutation.output.body for mutation in write.mutations if isinstance(mutation, AddOutput)]
        if any(self.text in body for body in (*write.bodies, *outputs)):
            write.failed(StorageFull("no space is left"))
        else:
            super().submit(write)


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner(umask=0o022) as spawner:
        yield spawner


class PipelineHook(Hook):
    """A hook that calls tools through a pipeline, like the hook of the daemon."""

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


async def test_a_command_whose_tool_started_cannot_be_written_does_not_run(tmp_path: Path, spawner: Spawner) -> None:
    call = ToolCall("c1", "bash", {"command": "echo ran >> trace"})
    model, log = FakeModel(in_turn(calls(call), calls(call), replies("ok"))), FullForBody(b'"tool_started"')
    async with Runtime(model, PipelineHook(BashTool(), spawner=spawner), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus", workspace=str(tmp_path)))
        session = await runtime.create_session("walrus")
        handle = await runtime.send(session, MessageRequest(content="go"))
        await handle.settled.wait()
        assert handle.problem is not None
        assert handle.problem.kind == "storage_full"
        assert spawner.unreaped_count == 0
        assert not (tmp_path / "trace").exists()
        log.text = b"matches no write"
        live_session(runtime, session).admission.retry_store()
        answer = await runtime.send_to(session, "again")
        assert (answer.final_response, (tmp_path / "trace").read_text()) == ("ok", "ran\n")


async def test_concurrent_outputs_are_all_stored_before_their_results() -> None:
    async def repeat(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        return f"{run.arguments['n']}" * 100_000

    requested = [ToolCall(f"c{n}", "repeat", {"n": n}) for n in range(4)]
    model, log = FakeModel(in_turn(calls(*requested), replies("ok"))), MemoryLog()
    async with Runtime(model, PipelineHook(FunctionTool("repeat", repeat, read_only=True)), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.send_to(session, "go")
        events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
        results = [event for event in events if isinstance(event, ToolResult)]
        outputs = {
            event.call_id: await log.read(read_output, session, event.ref, 0, 1_000_000)
            for event in results
            if event.ref is not None
        }
    assert outputs == {f"c{n}": b"%d" % n * 100_000 for n in range(4)}


async def test_a_result_whose_output_cannot_be_stored_is_not_recorded() -> None:
    async def output_long(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        return "long" * 100_000

    log = FullForBody(b"longlong")
    async with Runtime(
        FakeModel(calls(ToolCall("c1", "long", {}))), PipelineHook(FunctionTool("long", output_long)), log=log
    ) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        handle = await runtime.send(session, MessageRequest(content="go"))
        await handle.settled.wait()
        assert handle.problem is not None
        assert handle.problem.kind == "storage_full"
        live_session(runtime, session).admission.retry_store()
        assert await runtime.wait(session, ["error"]) == "error"
        events = [decode_row(row.body) for row in await log.events(session, 0, 100)]
        [result] = [event for event in events if isinstance(event, ToolResult)]
        assert (result.outcome, result.ref) == ("interrupted", None)
