"""The definition of an agent, immutable.

Sessions refer to it by name; a reload replaces the whole object.
"""

from msgspec import Struct

from walrus_protocol.content import ToolSchema


class Agent(Struct, frozen=True, kw_only=True):
    """An agent's settings for a turn. `tools` is the snapshot of schemas taken when the agent was added."""

    name: str
    description: str = ""
    system_prompt: str = ""
    model: str = ""
    max_iterations: int = 16
    thinking: bool = False
    allowed_tools: tuple[str, ...] = ()
    """The only tools that the agent may use; empty means all."""
    denied_tools: tuple[str, ...] = ()
    workspace: str = ""
    """An absolute path; empty if the agent has no workspace."""
    tools: tuple[ToolSchema, ...] = ()

    def may_use(self, tool: str) -> bool:
        """Returns whether the agent's tool lists include the tool.

        Permissions are checked separately, at each call.
        """
        return tool not in self.denied_tools and (not self.allowed_tools or tool in self.allowed_tools)

    def find_schema(self, tool: str) -> ToolSchema | None:
        """Returns the schema of an offered tool, or None if the agent was not offered it."""
        return next((schema for schema in self.tools if schema.name == tool), None)


class AgentResponse(Struct, frozen=True, kw_only=True):
    """The result of running the loop to its end. `steps` counts the calls of `step` that did something."""

    final_response: str
    iterations: int
    stop_reason: str
    steps: int
