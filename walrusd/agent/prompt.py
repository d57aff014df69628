"""The system text of a model call: the agent's own prompt and where it stands."""

from walrusd.agent.agent import Agent


def system_text(agent: Agent) -> str:
    """The same text for the same agent, call after call, so that providers can cache it."""
    if not agent.workspace or not agent.tools:
        return agent.system_prompt
    return f"{agent.system_prompt}\n\nYour workspace is {agent.workspace}; paths are relative to it.".lstrip()
