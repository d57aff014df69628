"""The gate of scope: an agent may only call what it was offered when it was built.

A tool that exists and was not offered is *denied*; one that does not exist is *unknown*, and that is found before.
"""

from walrus_config import schema as config
from walrusd.dispatch.gate import PolicySnapshot, Refusal
from walrusd.ports import ToolRequest


def excluding_rule(agent: config.AgentSettings, tool: str) -> str | None:
    """The line of walrus.toml that takes the tool from the agent; None where none does."""
    if tool in agent.deny_tools:
        return f"agents.{agent.name}.deny_tools: {tool}"
    if agent.tools and tool not in agent.tools:
        return f"agents.{agent.name}.tools"
    return None


def tools_in_scope(policy: PolicySnapshot, agent: str) -> list[str]:
    """The tools that the agent has by its whitelist; one that walrus.toml does not know has them all."""
    known = policy.agents.get(agent)
    return sorted(tool for tool in policy.tools if known is None or excluding_rule(known, tool) is None)


def capabilities(policy: PolicySnapshot, request: ToolRequest) -> Refusal | None:
    """Refuses a tool that the agent was not offered. The snapshot decides, so that a reload changes no running turn."""
    if request.schema is not None:
        return None
    agent = policy.agents.get(request.agent)
    return Refusal(
        outcome="denied",
        rule=excluding_rule(agent, request.call.name) if agent else None,
        text=f"{request.call.name} is not one of your tools; the user has not given it to you. "
        "Go on without it, or tell the user what you need it for.",
    )
