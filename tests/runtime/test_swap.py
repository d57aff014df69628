"""Another model, other tools, other agents while turns run: those keep what they have, the next have the new."""

import pytest
import trio

from tests.fakes.model import FakeModel, Gate, in_turn, says
from walrus_protocol.content import ToolCall, ToolSchema
from walrus_protocol.events import AnyEvent, ToolResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, Reply, Say, ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.schemas import ToolRegistry


class Named(Hook):
    """One tool, and its own name as what that says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[AnyEvent] = []

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(ToolSchema(name=self.name, description="", parameters={"type": "object"}))

    def on_event(self, agent: str, event: AnyEvent) -> None:
        self.seen.append(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.started(None)
        return ToolResult(call_id=request.call.id, name=request.call.name, output=f"from {self.name}")


class Asked:
    """Speaks as it is told, and keeps which tools and which prompt came with the request."""

    def __init__(self, model: FakeModel) -> None:
        self.with_: list[tuple[str, list[str]]] = []
        self.model = model
        self._speak = model.speak
        model.speak = self

    async def __call__(self, request: ModelRequest, say: Say) -> Reply:
        self.with_.append((request.system.split("\n")[0], [schema.name for schema in request.tools]))
        return await self._speak(request, say)


def walrus(prompt: str) -> Agent:
    return Agent(name="walrus", system_prompt=prompt)


class CallsWhenOpened(Gate):
    """A gate that asks for the tool `old` once it is opened."""

    async def __call__(self, request: ModelRequest, say: Say) -> Reply:
        await super().__call__(request, say)
        return Reply(calls=(ToolCall("c", "old", {}),), finish="tool_calls", cost_usd=0.0)


async def test_a_running_turn_keeps_its_model_its_tools_and_its_agent_to_the_end() -> None:
    gate = CallsWhenOpened()
    first, second = Asked(FakeModel(in_turn(gate, says("old")))), Asked(FakeModel(says("new")))
    old, new = Named("old"), Named("new")
    async with Runtime(first.model, old) as runtime:
        runtime.add_agent(walrus("You are old."))
        session = await runtime.create_session("walrus")
        running = await runtime.send(session, Incoming(content="one"))
        waiting = await runtime.send(session, Incoming(content="two"))
        await gate.reached.wait()
        runtime.swap(second.model, new, [walrus("You are new.")])
        gate.opened.set()
        assert [(await ticket.outcome()).text for ticket in (running, waiting)] == ["old", "new"]
    assert first.with_ == [("You are old.", ["old"])] * 2
    assert second.with_ == [("You are new.", ["new"])]
    assert [event.output for event in new.seen if isinstance(event, ToolResult)] == ["from old"]


async def test_a_session_outlives_its_agent_and_goes_on_when_there_is_one_again() -> None:
    gate = Gate()
    hook, model = Hook(), FakeModel(in_turn(gate, says("back")))
    async with Runtime(model, hook) as runtime:
        runtime.add_agent(walrus("."))
        session = await runtime.create_session("walrus")
        running = await runtime.send(session, Incoming(content="one"))
        queued = await runtime.send(session, Incoming(content="two"))
        await gate.reached.wait()
        runtime.swap(model, hook, [])
        with pytest.raises(Problem, match="no agent named 'walrus'"):
            await runtime.send(session, Incoming(content="three"))
        gate.opened.set()
        assert (await running.outcome()).stop_reason == "text_response"
        lost = await queued.outcome()
        assert (lost.stop_reason, lost.error and lost.error.message) == ("error", "there is no agent named 'walrus'")
        runtime.swap(model, hook, [walrus(".")])
        assert (await runtime.send_to(session, "four")).final_response == "back"


async def test_a_hook_that_fails_changes_nothing() -> None:
    class Twice(Hook):
        def on_register_tools(self, registry: ToolRegistry) -> None:
            for _ in range(2):
                registry.register_tool(ToolSchema(name="twin", description="", parameters={"type": "object"}))

    hook = Named("old")
    async with Runtime(FakeModel(), hook) as runtime:
        agent = runtime.add_agent(walrus("."))
        with pytest.raises(ValueError, match="twin"):
            runtime.swap(FakeModel(), Twice(), [])
        assert (runtime.hook, runtime.agents()) == (hook, (agent,))
        assert (await runtime.send_to(await runtime.create_session("walrus"), "hi")).final_response == "ok"


async def test_a_shorter_age_counts_for_those_that_rest_already(autojump_clock: trio.abc.Clock) -> None:
    async with Runtime(FakeModel(), idle_evict_s=3600) as runtime:
        runtime.add_agent(walrus("."))
        await runtime.create_session("walrus")
        await trio.sleep(60)
        assert len(runtime.sessions_in_memory) == 1
        runtime.evict_idle_after(30)
        await trio.sleep(1)
        assert len(runtime.sessions_in_memory) == 0
