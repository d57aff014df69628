"""The tables [defaults] and [agents.NAME], and the complete agents that are merged from them."""

from typing import Annotated

from walrus_config.diagnostics import Location
from walrus_config.schema.heartbeats import HeartbeatSettings
from walrus_config.schema.permissions import PermissionSettings
from walrus_config.schema.section import Count, KeyMark, Section
from walrus_config.schema.tools import check_tool_patterns


class BaseAgentSettings(Section, frozen=True, kw_only=True):
    """The keys of [defaults], of [agents.NAME] and of the front matter of agents/NAME.md."""

    unsupported_keys = ("compact_threshold", "budget")

    description: str = ""
    model: str = ""
    max_iterations: Count = 16
    thinking: bool = False
    members: Annotated[tuple[str, ...], KeyMark.NO_EFFECT] = ()
    skills: Annotated[tuple[str, ...], KeyMark.NO_EFFECT] = ()
    mcps: Annotated[tuple[str, ...], KeyMark.NO_EFFECT] = ()
    tools: tuple[str, ...] = ()
    deny_tools: tuple[str, ...] = ()
    workspace: str = ""
    """The agent's working folder, absolute after loading; the default is workspace/ in the home."""
    permissions: PermissionSettings = PermissionSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()

    def check(self, at: Location) -> None:
        check_tool_patterns(self.tools, at.key("tools"), offers=True)
        check_tool_patterns(self.deny_tools, at.key("deny_tools"), offers=False)


class AgentSettings(BaseAgentSettings, frozen=True, kw_only=True):
    """A complete agent, merged from [defaults], [agents.NAME], front matter and prompt file."""

    name: str
    system_prompt: str = ""
