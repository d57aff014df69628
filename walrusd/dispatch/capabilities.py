"""The capabilities gate: an agent may call only the tools that it was offered when it was built.

A tool that exists but was not offered is *denied*. A tool that does not exist is *unknown*: an earlier gate refuses it.
"""

from walrus_config import schema as config
from walrusd.dispatch.gate import PolicySnapshot, Refusal
from walrusd.ports import ToolRequest


def excluding_rule(agent: config.AgentSettings, tool: str) -> str | None:
    """Returns the key of walrus.toml that excludes the tool, or None if the agent has the tool."""
    if tool in agent.deny_tools:
        return f"agents.{agent.name}.deny_tools: {tool}"
    if agent.tools and tool not in agent.tools:
        return f"agents.{agent.name}.tools"
    return None


def tools_in_scope(policy: PolicySnapshot, agent: str) -> list[str]:
    """Returns the tools that walrus.toml gives the agent; an agent that is not in it has all tools."""
    settings = policy.agents.get(agent)
    return sorted(tool for tool in policy.tools if settings is None or excluding_rule(settings, tool) is None)


def capabilities(policy: PolicySnapshot, request: ToolRequest) -> Refusal | None:
    """Refuses a tool that the agent was not offered.

    The agent's snapshot decides, which the request carries as `schema`: a reload does not affect a running turn.
    """
    if request.schema is not None:
        return None
    agent = policy.agents.get(request.agent)
    return Refusal(
        outcome="denied",
        rule=excluding_rule(agent, request.call.name) if agent else None,
        text=f"{request.call.name} is not one of your tools: the user has not enabled it for you. "
        "Continue without it, or tell the user what you need it for.",
    )
