"""The lifecycle backend of a runtime: what a feature may see and change. By default nothing is changed."""

from collections.abc import Sequence

from walrus_protocol.content import Message
from walrus_protocol.events import AnyEvent, ToolResult
from walrusd.agent.agent import Agent
from walrusd.ports import ToolRequest
from walrusd.runtime.registry.tools import ToolRegistry


class Hook:
    """Subclass it and override what you need; the runtime never knows how a tool works."""

    def on_register_tools(self, registry: ToolRegistry) -> None:
        """Register the schemas of the tools that `dispatch` answers for."""

    def on_build_agent(self, config: Agent) -> Agent:
        """Enrich an agent's definition before it is added."""
        return config

    async def preprocess(self, agent: Agent, text: str) -> str:
        """The text of a user message as it is to be recorded."""
        return text

    async def on_before_run(self, agent: Agent, history: Sequence[Message]) -> Sequence[Message]:
        """Messages to show the model after its history in this call only; they are not recorded."""
        return ()

    def on_event(self, agent: str, event: AnyEvent) -> None:
        """See an event, durable or live. Called on trio's thread in the order of the log: return at once."""

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        """Answer a tool call. A refusal is a result too; a raised exception is a bug and ends the turn."""
        text = f"There is no tool named {request.call.name} here."
        return ToolResult(
            call_id=request.call.id,
            name=request.call.name,
            output=text,
            is_error=True,
            outcome="unknown_tool",
            bytes=len(text.encode()),
        )
