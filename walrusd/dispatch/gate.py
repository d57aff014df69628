"""What a gate is: a check that reads the rules and a request, and lets it pass or refuses it in words for the model."""

from collections.abc import Callable, Mapping

from jsonschema_rs import Validator
from msgspec import Struct

from walrus_config import schema as config
from walrus_protocol.content import Outcome, ToolSchema
from walrusd.ports import ProcessTool, Tool, ToolRequest


class ConfiguredTool(Struct, frozen=True, kw_only=True):
    """A tool that can be executed. `schema` has the limits that walrus.toml sets, where it sets any."""

    tool: Tool | ProcessTool
    schema: ToolSchema
    validator: Validator


class PolicySnapshot(Struct, frozen=True, kw_only=True):
    """All that the gates go by. A reload replaces it whole."""

    tools: Mapping[str, ConfiguredTool]
    agents: Mapping[str, config.AgentSettings]
    permissions: config.PermissionSettings


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a request goes no further. `rule` names the line of walrus.toml that decided, where one did."""

    outcome: Outcome
    text: str
    rule: str | None = None


Gate = Callable[[PolicySnapshot, ToolRequest], Refusal | None]
"""None lets the request pass."""
