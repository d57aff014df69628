"""Handlers of agent.list and agent.get; agent.run is in send.py."""

from walrus_protocol.methods import AgentInfo, AgentList, AgentParams
from walrus_protocol.param_types import NoParams
from walrusd.agent.agent import Agent
from walrusd.rpc.request_context import DaemonServices


def list_agents(services: DaemonServices, _: NoParams) -> AgentList:
    return AgentList(agents=tuple(_to_agent_info(agent, system_prompt="") for agent in services.runtime.agents()))


def get(services: DaemonServices, params: AgentParams) -> AgentInfo:
    agent = services.runtime.agent(params.agent)
    return _to_agent_info(agent, system_prompt=agent.system_prompt)


def _to_agent_info(agent: Agent, *, system_prompt: str) -> AgentInfo:
    """Describes an agent; a list omits the system prompts, which are long."""
    return AgentInfo(
        name=agent.name,
        description=agent.description,
        model=agent.model,
        max_iterations=agent.max_iterations,
        thinking=agent.thinking,
        tools=tuple(schema.name for schema in agent.tools),
        workspace=agent.workspace,
        system_prompt=system_prompt,
    )
