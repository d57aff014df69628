"""The declaration of a tool, from which the daemon builds it."""

from collections.abc import Callable

from msgspec import Struct

from walrus_config.schema import ToolSettings
from walrusd.ports import ProcessTool, Tool


class ToolDeps(Struct, frozen=True, kw_only=True):
    """What tools may need of the daemon."""

    home: str
    """The walrus home."""


class ToolSpec(Struct, frozen=True, kw_only=True):
    """A tool with its name, which is also that of its table in walrus.toml."""

    name: str
    build: Callable[[ToolDeps, ToolSettings], Tool | ProcessTool | None]
    """Returns the tool, or None if these settings do not offer it."""
