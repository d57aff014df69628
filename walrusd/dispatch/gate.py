"""The types of policy gates, which check a tool request against the configuration and may refuse it."""

from collections.abc import Callable, Mapping

from jsonschema_rs import Validator
from msgspec import Struct

from walrus_config import schema as config
from walrus_protocol.content import Outcome, ToolSchema
from walrusd.ports import ProcessTool, Tool, ToolRequest


class ConfiguredTool(Struct, frozen=True, kw_only=True):
    """An enabled tool; `schema` has the limits of walrus.toml instead of the tool's own, if it sets them."""

    tool: Tool | ProcessTool
    schema: ToolSchema
    validator: Validator


class PolicySnapshot(Struct, frozen=True, kw_only=True):
    """The configuration that the gates read. A reload replaces the whole snapshot."""

    tools: Mapping[str, ConfiguredTool]
    agents: Mapping[str, config.AgentSettings]
    permissions: config.PermissionSettings


class Refusal(Struct, frozen=True, kw_only=True):
    """The refusal of a gate: a text for the model, and the line of walrus.toml that decided, if any."""

    outcome: Outcome
    text: str
    rule: str | None = None


Gate = Callable[[PolicySnapshot, ToolRequest], Refusal | None]
"""A function that returns a Refusal, or None to let the request pass."""
