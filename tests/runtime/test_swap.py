"""Tests a swap of model, hook and agents: a running turn keeps the old ones, the next gets the new."""

import pytest
import trio

from tests.fakes.model import BlockingReply, FakeModel, in_turn, replies
from walrus_protocol.content import ToolCall, ToolSchema
from walrus_protocol.events import AnyEvent, ToolResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, OnChunk, Reply, ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.registry.agents import AgentRegistry
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest


class NamedToolHook(Hook):
    """A hook with one tool; its output contains the name of the hook."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[AnyEvent] = []

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(ToolSchema(name=self.name, description="", parameters={"type": "object"}))

    def on_event(self, agent: str, event: AnyEvent) -> None:
        self.events.append(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.record_started(None)
        return ToolResult(call_id=request.call.id, name=request.call.name, output=f"from {self.name}")


class RequestRecorder:
    """Wraps a model, and records the system prompt and tool names of each request."""

    def __init__(self, model: FakeModel) -> None:
        self.requests: list[tuple[str, list[str]]] = []
        self.model = model
        self._respond = model.respond
        model.respond = self

    async def __call__(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        self.requests.append((request.system.split("\n")[0], [schema.name for schema in request.tools]))
        return await self._respond(request, on_chunk)


def walrus_agent(prompt: str) -> Agent:
    return Agent(name="walrus", system_prompt=prompt)


class BlockingToolCall(BlockingReply):
    """A reply that blocks, and then calls the tool `old`."""

    async def __call__(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        await super().__call__(request, on_chunk)
        return Reply(calls=(ToolCall("c", "old", {}),), finish="tool_calls", cost_usd=0.0)


async def test_a_running_turn_keeps_its_model_its_tools_and_its_agent_to_the_end() -> None:
    gate = BlockingToolCall()
    first, second = (
        RequestRecorder(FakeModel(in_turn(gate, replies("old")))),
        RequestRecorder(FakeModel(replies("new"))),
    )
    old, new = NamedToolHook("old"), NamedToolHook("new")
    async with Runtime(first.model, old) as runtime:
        runtime.add_agent(walrus_agent("You are old."))
        session = await runtime.create_session("walrus")
        running = await runtime.send(session, MessageRequest(content="one"))
        waiting = await runtime.send(session, MessageRequest(content="two"))
        await gate.reached.wait()
        runtime.swap(second.model, AgentRegistry(ComposedHook.of(new), [walrus_agent("You are new.")]))
        gate.released.set()
        assert [(await handle.wait_result()).text for handle in (running, waiting)] == ["old", "new"]
    assert first.requests == [("You are old.", ["old"])] * 2
    assert second.requests == [("You are new.", ["new"])]
    assert [event.output for event in new.events if isinstance(event, ToolResult)] == ["from old"]


async def test_a_session_survives_the_removal_of_its_agent_and_works_again_when_it_is_back() -> None:
    gate = BlockingReply()
    hook, model = Hook(), FakeModel(in_turn(gate, replies("back")))
    async with Runtime(model, hook) as runtime:
        runtime.add_agent(walrus_agent("."))
        session = await runtime.create_session("walrus")
        running = await runtime.send(session, MessageRequest(content="one"))
        queued = await runtime.send(session, MessageRequest(content="two"))
        await gate.reached.wait()
        runtime.swap(model, AgentRegistry(ComposedHook.of(hook), []))
        with pytest.raises(Problem, match="no agent named 'walrus'"):
            await runtime.send(session, MessageRequest(content="three"))
        gate.released.set()
        assert (await running.wait_result()).stop_reason == "text_response"
        failed = await queued.wait_result()
        assert (failed.stop_reason, failed.error and failed.error.message) == (
            "error",
            "there is no agent named 'walrus'",
        )
        runtime.swap(model, AgentRegistry(ComposedHook.of(hook), [walrus_agent(".")]))
        assert (await runtime.send_to(session, "four")).final_response == "back"


async def test_a_swap_whose_hook_fails_changes_nothing() -> None:
    class DuplicateToolHook(Hook):
        def on_register_tools(self, registry: ToolRegistry) -> None:
            for _ in range(2):
                registry.register_tool(ToolSchema(name="twin", description="", parameters={"type": "object"}))

    hook = NamedToolHook("old")
    async with Runtime(FakeModel(), hook) as runtime:
        agent = runtime.add_agent(walrus_agent("."))
        with pytest.raises(ValueError, match="twin"):
            runtime.swap(FakeModel(), AgentRegistry(ComposedHook.of(DuplicateToolHook()), []))
        assert (runtime.hook.hooks, runtime.agents()) == ((hook,), (agent,))
        assert (await runtime.send_to(await runtime.create_session("walrus"), "hi")).final_response == "ok"


async def test_a_shorter_idle_limit_applies_to_sessions_already_idle(autojump_clock: trio.abc.Clock) -> None:
    async with Runtime(FakeModel(), idle_evict_s=3600) as runtime:
        runtime.add_agent(walrus_agent("."))
        await runtime.create_session("walrus")
        await trio.sleep(60)
        assert len(runtime.session_cache) == 1
        runtime.evict_idle_after(30)
        await trio.sleep(1)
        assert len(runtime.session_cache) == 0
