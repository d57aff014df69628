"""The registry of a runtime's agents, by name."""

import difflib

from msgspec.structs import replace

from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry


class AgentRegistry:
    """Immutable agent definitions. Adding a name again replaces the agent for later turns."""

    def __init__(self, tool_registry: ToolRegistry, hook: Hook) -> None:
        self._tool_registry = tool_registry
        self._hook = hook
        self._definitions: dict[str, Agent] = {}
        """The agents as they were added, before the hook extended them."""
        self._agents: dict[str, Agent] = {}

    def add(self, agent: Agent) -> Agent:
        """Adds the agent, extended by the hook and with the tools that it may use; returns the result."""
        built = self._hook.on_build_agent(agent)
        built = replace(built, tools=tuple(schema for schema in self._tool_registry if built.may_use(schema.name)))
        self._definitions[agent.name], self._agents[agent.name] = agent, built
        return built

    def get(self, name: str) -> Agent:
        """Returns the agent of that name. Raises Problem agent_not_found."""
        try:
            return self._agents[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._agents, n=1)
            hint = f"Did you mean {near[0]}?" if near else "`walrusctl agent list` lists them."
            raise Problem("agent_not_found", f"there is no agent named {name!r}", hint) from None

    def definitions(self) -> tuple[Agent, ...]:
        return tuple(self._definitions.values())

    def all(self) -> tuple[Agent, ...]:
        return tuple(self._agents.values())
