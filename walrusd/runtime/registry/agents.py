"""The registry of a runtime's agents, by name."""

import difflib
from collections.abc import Iterable

from msgspec.structs import replace

from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.registry.tools import ToolRegistry


class AgentRegistry:
    """Immutable agent definitions, with the hook and the tools of their turns.

    Adding a name again replaces the agent for later turns.
    """

    def __init__(self, hook: ComposedHook, agents: Iterable[Agent] = ()) -> None:
        """Registers the tools of the hook. Raises what the hook raises, and ValueError if two tools have one name."""
        self.hook = hook
        self.tools = ToolRegistry()
        self._definitions: dict[str, Agent] = {}
        """The agents as they were added, before the hook extended them."""
        self._agents: dict[str, Agent] = {}
        hook.on_register_tools(self.tools)
        for agent in agents:
            self.add(agent)

    def add(self, agent: Agent) -> Agent:
        """Adds the agent, extended by the hook and with the tools that it may use; returns the result."""
        built = self.hook.on_build_agent(agent)
        built = replace(built, tools=tuple(schema for schema in self.tools if built.may_use(schema.name)))
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
