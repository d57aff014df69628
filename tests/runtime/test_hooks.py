"""Tests of composed hooks, through a runtime with several features."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from tests.fakes.model import FakeModel, calls, in_turn, replies
from walrus_protocol.content import Message, ToolCall, ToolSchema, User
from walrus_protocol.events import AnyEvent, AnyLiveEvent, Done, TextDelta, ToolResult, UserMessage
from walrusd.agent.agent import Agent
from walrusd.ports import ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime


class FeatureHook(Hook):
    """A feature with one tool, which adds its name to all that passes through it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tools = [name]
        self.events: list[AnyEvent] = []

    def on_register_tools(self, registry: ToolRegistry) -> None:
        for tool in self.tools:
            registry.register_tool(ToolSchema(name=tool, description="", parameters={"type": "object"}))

    def on_build_agent(self, config: Agent) -> Agent:
        return replace(config, system_prompt=f"{config.system_prompt} {self.name}".strip())

    async def preprocess(self, agent: Agent, text: str) -> str:
        return f"{text} {self.name}"

    async def on_before_run(self, agent: Agent, history: Sequence[Message]) -> Sequence[Message]:
        return [User(f"note of {self.name}")]

    def on_event(self, agent: str, event: AnyEvent) -> None:
        self.events.append(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.record_started(None)
        return ToolResult(call_id=request.call.id, name=request.call.name, output=f"from {self.name}")


class LiveFeatureHook(FeatureHook):
    """A feature that observes live events, too."""

    observes_live_events = True

    def on_live_event(self, agent: str, event: AnyLiveEvent) -> None:
        self.events.append(event)


class FailingHook(FeatureHook):
    """A feature whose observer has a bug."""

    def on_event(self, agent: str, event: AnyEvent) -> None:
        raise ZeroDivisionError


async def test_agents_messages_and_notes_pass_through_all_hooks_in_their_order() -> None:
    model = FakeModel()
    async with Runtime(model, ComposedHook(FeatureHook("one"), FeatureHook("two"))) as runtime:
        agent = runtime.add_agent(Agent(name="walrus"))
        assert (agent.system_prompt, [tool.name for tool in agent.tools]) == ("one two", ["one", "two"])
        await runtime.send_to(await runtime.create_session("walrus"), "hi")
    assert model.requests == [[User("hi one two"), User("note of one"), User("note of two")]]


async def test_a_call_goes_to_the_hook_that_registered_its_tool() -> None:
    hooks = [FeatureHook(name) for name in ("one", "two")]
    model = FakeModel(in_turn(calls(ToolCall("c2", "two", {})), calls(ToolCall("c1", "one", {})), replies("ok")))
    async with Runtime(model, ComposedHook(*hooks)) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await runtime.send_to(await runtime.create_session("walrus"), "hi")
    outputs = [event.output for event in hooks[0].events if isinstance(event, ToolResult)]
    assert outputs == ["from two", "from one"]


async def test_a_call_of_an_unknown_tool_is_refused_by_the_first_hook_that_runs_tools() -> None:
    hook = FeatureHook("one")
    model = FakeModel(in_turn(calls(ToolCall("c", "invented", {})), replies("ok")))
    async with Runtime(model, ComposedHook(Hook(), hook, FeatureHook("two"))) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await runtime.send_to(await runtime.create_session("walrus"), "hi")
    assert [event.output for event in hook.events if isinstance(event, ToolResult)] == ["from one"]


async def test_a_hook_that_fails_to_observe_hides_nothing_from_the_others() -> None:
    before, after = FeatureHook("before"), FeatureHook("after")
    async with Runtime(FakeModel(), ComposedHook(before, FailingHook("failing"), after)) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        response = await runtime.send_to(await runtime.create_session("walrus"), "hi")
        assert response.stop_reason == "text_response"
    assert [type(event) for event in before.events] == [type(event) for event in after.events]
    assert {UserMessage, Done} <= {type(event) for event in after.events}


async def test_an_observer_gets_the_logged_events_also_after_the_tools_have_changed() -> None:
    seen: list[tuple[str, AnyEvent]] = []
    hook = ComposedHook(FailingHook("failing"), observers=[lambda agent, event: seen.append((agent, event))])
    async with Runtime(FakeModel(), hook) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.send_to(session, "one")
        runtime.refresh_tools()
        await runtime.send_to(session, "two")
    assert [agent for agent, event in seen if isinstance(event, Done)] == ["walrus", "walrus"]
    assert not [event for _, event in seen if isinstance(event, TextDelta)]


async def test_live_events_reach_only_the_hooks_that_ask_for_them() -> None:
    plain, live = FeatureHook("plain"), LiveFeatureHook("live")
    async with Runtime(FakeModel(replies("hello")), ComposedHook(plain, live)) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await runtime.send_to(await runtime.create_session("walrus"), "hi")
    assert [event.text for event in live.events if isinstance(event, TextDelta)] == ["hello"]
    assert not [event for event in plain.events if isinstance(event, TextDelta)]


def test_two_hooks_with_a_tool_of_the_same_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a tool named twin is registered already"):
        Runtime(FakeModel(), ComposedHook(FeatureHook("twin"), FeatureHook("twin")))


async def test_a_tool_list_that_changes_is_offered_from_the_next_turn_on() -> None:
    hook, model = (
        FeatureHook("first"),
        FakeModel(in_turn(replies("a"), calls(ToolCall("c", "later", {})), replies("b"))),
    )
    async with Runtime(model, ComposedHook(hook)) as runtime:
        runtime.add_agent(Agent(name="walrus", system_prompt="You are old."))
        session = await runtime.create_session("walrus")
        await runtime.send_to(session, "one")
        hook.tools = ["later"]
        runtime.refresh_tools()
        agent = runtime.agent("walrus")
        assert (agent.system_prompt, [tool.name for tool in agent.tools]) == ("You are old. first", ["later"])
        assert (await runtime.send_to(session, "two")).final_response == "b"
    assert [event.output for event in hook.events if isinstance(event, ToolResult)] == ["from first"]
