"""Handlers of agent.list and agent.get; agent.run is in send.py."""

from functools import partial

from walrus_protocol.methods import AgentInfo, AgentList, AgentParams
from walrus_protocol.param_types import NoParams
from walrusd.agent.agent import Agent
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes
from walrusd.runtime.runtime import Runtime


def routes(runtime: Runtime) -> Routes:
    return {"agent.list": partial(list_agents, runtime), "agent.get": partial(get, runtime)}


def list_agents(runtime: Runtime, _: RequestContext, __: NoParams) -> AgentList:
    return AgentList(agents=tuple(_to_agent_info(agent, system_prompt="") for agent in runtime.agents()))


def get(runtime: Runtime, _: RequestContext, params: AgentParams) -> AgentInfo:
    agent = runtime.agent(params.agent)
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
