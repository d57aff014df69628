"""Builds the system prompt of a model call: the agent's own prompt, then its workspace."""

from walrusd.agent.agent import Agent


def system_text(agent: Agent) -> str:
    """Returns the system prompt.

    It is the same for the same agent at every call, so that providers can cache it.
    """
    if not agent.workspace or not agent.tools:
        return agent.system_prompt
    return f"{agent.system_prompt}\n\nYour workspace is {agent.workspace}; paths are relative to it.".lstrip()
