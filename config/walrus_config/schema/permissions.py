"""The tables [permissions], [defaults.permissions] and [agents.NAME.permissions]."""

from typing import Annotated, Literal

from walrus_config.diagnostics import Location
from walrus_config.schema.section import NotYet, Section
from walrus_config.schema.tools import check_tool_patterns


class PermissionSettings(Section, frozen=True, kw_only=True):
    """Permissions by tool name.

    `deny` takes precedence over `allow`; `default` applies to tools in neither list.
    """

    unsupported_keys = ("ask",)

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    default: Annotated[Literal["allow", "deny"] | None, NotYet(("ask",))] = None
    """None: the default of the next tier applies; if no tier has one, it is deny."""

    def check(self, at: Location) -> None:
        check_tool_patterns(self.allow, at.key("allow"), offers=True)
        check_tool_patterns(self.deny, at.key("deny"), offers=False)
