"""The tables [tools.NAME], one type for each tool that has keys of its own, and the names of tools in lists."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from walrus_config.diagnostics import Location
from walrus_config.errors import did_you_mean
from walrus_config.schema.section import NotYet, Positive, Section

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MCP_PATTERN = re.compile(r"mcp:[a-z0-9-]{1,32}:[^\s()]+")
"""The tools of an MCP server: mcp:SERVER:TOOL, with any number of * in TOOL."""


class ToolSettings(Section, frozen=True, kw_only=True):
    """The keys of every tool."""

    unsupported_keys: ClassVar[tuple[str, ...]] = ("rate_limit", "cache_ttl_s", "idempotent")

    enabled: bool = True
    timeout_s: Positive | None = None
    """Maximum seconds of a call; None means the tool's own limit."""
    max_output_bytes: Annotated[int, Meta(ge=256, le=1024 * 1024)] | None = None

    @classmethod
    def types_by_name(cls) -> Mapping[str, type["ToolSettings"]]:
        return TOOL_SECTIONS

    def check(self, at: Location) -> None:
        name = str(at.path[-1])
        if not _TOOL_NAME.fullmatch(name):
            _refuse_tool_name(name, at)
        else:
            _check_known(name, at)


class BashToolSettings(ToolSettings, frozen=True, kw_only=True):
    unsupported_keys = (*ToolSettings.unsupported_keys, "network")

    sandbox: Annotated[Literal["none"] | None, NotYet(("auto", "bwrap"))] = None
    """bash is offered only if the user has set "none": it runs without a sandbox."""

    @property
    def is_offered(self) -> bool:
        return self.enabled and self.sandbox == "none"

    def check(self, at: Location) -> None:
        """Warns if bash is offered without a sandbox, and if it is configured but not offered."""
        if self.is_offered:
            message = "bash runs without a sandbox and can do whatever you can do"
            at.key("sandbox").add_warning(message, "so can every agent that is permitted to use it")
        elif self.enabled:
            message = "bash is not offered: there is no sandbox for it yet"
            at.add_warning(message, 'sandbox = "none" offers it without one')


TOOL_SECTIONS: Mapping[str, type[ToolSettings]] = {"read": ToolSettings, "bash": BashToolSettings}
"""The tools of walrusd with the types of their tables; other names of tools are accepted with a warning."""


def is_bash_offered(tools: Mapping[str, ToolSettings]) -> bool:
    """Returns whether bash is enabled and the user has accepted that it runs without a sandbox."""
    bash = tools.get("bash")
    return isinstance(bash, BashToolSettings) and bash.is_offered


def check_tool_patterns(patterns: tuple[str, ...], at: Location, *, offers: bool) -> None:
    """Checks a list of tool names. If it `offers` tools, it warns about bash without a table [tools.bash]."""
    for index, pattern in enumerate(patterns):
        if not (_TOOL_NAME.fullmatch(pattern) or _MCP_PATTERN.fullmatch(pattern)):
            _refuse_tool_name(pattern, at.key(index))
            continue
        _check_known(pattern, at.key(index))
        if offers and pattern == "bash" and not at.diagnostics.has_key(("tools", "bash")):
            hint = 'it needs [tools.bash] sandbox = "none"; see the sample'
            at.key(index).add_warning("bash is not offered", hint)


def _refuse_tool_name(name: str, at: Location) -> None:
    """Adds an error: a pattern used as a name would match nothing, which is fatal in a deny."""
    at.add_error(f"{json.dumps(name)} is not a valid tool name", "patterns are not available yet")


def _check_known(name: str, at: Location) -> None:
    if name not in TOOL_SECTIONS:
        at.add_warning(f"no tool is called {name}", did_you_mean(name, TOOL_SECTIONS))
