"""An agent: an immutable definition. Sessions refer to it by name; a reload replaces it whole."""

from msgspec import Struct

from walrus_protocol.content import ToolSchema


class Agent(Struct, frozen=True, kw_only=True):
    """What a turn needs to know. `tools` is the snapshot of schemas taken when the agent was added."""

    name: str
    description: str = ""
    system_prompt: str = ""
    model: str = ""
    max_iterations: int = 16
    thinking: bool = False
    allowed_tools: tuple[str, ...] = ()
    """The capability whitelist; empty means all."""
    denied_tools: tuple[str, ...] = ()
    workspace: str = ""
    """An absolute path; empty where the agent has none."""
    tools: tuple[ToolSchema, ...] = ()

    def may_use(self, tool: str) -> bool:
        """Whether the tool is within the agent's scope; permission is another question, asked at each call."""
        return tool not in self.denied_tools and (not self.allowed_tools or tool in self.allowed_tools)

    def find_schema(self, tool: str) -> ToolSchema | None:
        return next((schema for schema in self.tools if schema.name == tool), None)


class AgentResponse(Struct, frozen=True, kw_only=True):
    """The answer of a run. `steps` counts the debts that were paid."""

    final_response: str
    iterations: int
    stop_reason: str
    steps: int
