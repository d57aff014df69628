"""The hook of a runtime: the methods by which features observe and change turns."""

from collections.abc import Sequence

from walrus_protocol.content import Message
from walrus_protocol.events import AnyEvent, AnyLiveEvent, ToolResult
from walrusd.agent.agent import Agent
from walrusd.ports import ToolRequest
from walrusd.runtime.registry.tools import ToolRegistry


class Hook:
    """The default hook, which changes nothing. Override the methods that you need.

    The runtime itself does not know how a tool works: that is implemented behind `dispatch`.
    """

    observes_live_events = False
    """Whether `on_live_event` is called. It costs a call for every token of every reply."""

    def on_register_tools(self, registry: ToolRegistry) -> None:
        """Registers the schemas of the tools that `dispatch` runs."""

    def on_build_agent(self, config: Agent) -> Agent:
        """Returns the agent's definition, possibly extended, before it is added."""
        return config

    async def preprocess(self, agent: Agent, text: str) -> str:
        """Returns the text of a user message as it is to be recorded."""
        return text

    async def on_before_run(self, agent: Agent, history: Sequence[Message]) -> Sequence[Message]:
        """Returns messages to append to the history for this model call only; they are not recorded."""
        return ()

    def on_event(self, agent: str, event: AnyEvent) -> None:
        """Observes a logged event.

        It is called on trio's thread, in the order of the log, and must return at once.
        """

    def on_live_event(self, agent: str, event: AnyLiveEvent) -> None:
        """Observes a live event, such as a piece of a reply, if `observes_live_events` is set. Must return at once."""

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        """Runs a tool call. A refusal is a result too; a raised exception is a bug and ends the turn."""
        text = f"There is no tool named {request.call.name}."
        return ToolResult(
            call_id=request.call.id,
            name=request.call.name,
            output=text,
            is_error=True,
            outcome="unknown_tool",
            bytes=len(text.encode()),
        )
