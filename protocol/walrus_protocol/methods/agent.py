"""The params and results of agent.*: the configured agents, and a turn of one in a new session."""

from msgspec import Struct

from walrus_protocol.methods.method import Method
from walrus_protocol.methods.session import TurnResult
from walrus_protocol.param_types import NonEmptyContent, NoParams, Params, ShortText, TimeoutSeconds


class AgentInfo(Struct, frozen=True, kw_only=True):
    name: str
    description: str
    model: str
    max_iterations: int
    thinking: bool = False
    tools: tuple[str, ...] = ()
    """The names of the tools that the agent is offered now."""
    workspace: str = ""
    system_prompt: str = ""


class AgentList(Struct, frozen=True, kw_only=True):
    agents: tuple[AgentInfo, ...]


class AgentParams(Params, frozen=True, kw_only=True):
    agent: str


class AgentRunParams(Params, frozen=True, kw_only=True):
    agent: str
    content: NonEmptyContent
    sender: ShortText = ""
    created_by: ShortText = ""
    title: ShortText = ""
    timeout_s: TimeoutSeconds | None = None


ROWS: dict[str, Method] = {
    "agent.list": Method(NoParams, AgentList, inline=True),
    "agent.get": Method(AgentParams, AgentInfo, inline=True),
    "agent.run": Method(AgentRunParams, TurnResult, sends="events"),
}
