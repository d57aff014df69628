"""agent.list and agent.get; agent.run is a send."""

from walrus_protocol.fields import NoParams
from walrus_protocol.methods import AgentInfo, AgentList, AgentParams
from walrusd.agent.agent import Agent
from walrusd.rpc.call import House


def list_agents(house: House, _: NoParams) -> AgentList:
    return AgentList(agents=tuple(_told(agent, prompt="") for agent in house.runtime.agents()))


def get(house: House, params: AgentParams) -> AgentInfo:
    agent = house.runtime.agent(params.agent)
    return _told(agent, prompt=agent.system_prompt)


def _told(agent: Agent, *, prompt: str) -> AgentInfo:
    """A list leaves the prompts out: they are what is long about an agent."""
    return AgentInfo(
        name=agent.name,
        description=agent.description,
        model=agent.model,
        max_iterations=agent.max_iterations,
        thinking=agent.thinking,
        tools=tuple(schema.name for schema in agent.tools),
        workspace=agent.workspace,
        system_prompt=prompt,
    )
