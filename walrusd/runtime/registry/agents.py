"""The agents of a runtime, by name."""

import difflib

from msgspec.structs import replace

from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry


class AgentRegistry:
    """Immutable definitions. Adding one under a taken name replaces it; a running turn keeps what it started with."""

    def __init__(self, tool_registry: ToolRegistry, hook: Hook) -> None:
        self._tool_registry = tool_registry
        self._hook = hook
        self._agents: dict[str, Agent] = {}

    def add(self, agent: Agent) -> Agent:
        """The agent as it now stands: enriched by the hook, with the schemas that its scope lets it see."""
        agent = self._hook.on_build_agent(agent)
        agent = replace(agent, tools=tuple(schema for schema in self._tool_registry if agent.may_use(schema.name)))
        self._agents[agent.name] = agent
        return agent

    def get(self, name: str) -> Agent:
        """Raises Problem agent_not_found."""
        try:
            return self._agents[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._agents, n=1)
            hint = f"Did you mean {near[0]}?" if near else "`walrusctl agent list` shows those there are."
            raise Problem("agent_not_found", f"there is no agent named {name!r}", hint) from None

    def all(self) -> tuple[Agent, ...]:
        return tuple(self._agents.values())
