"""The results of config.*: the configuration in force, and a check of the files."""

from msgspec import Struct

from walrus_protocol.methods.method import Method
from walrus_protocol.param_types import NoParams


class ConfigResult(Struct, frozen=True, kw_only=True):
    """The configuration in force as JSON, with secrets masked."""

    path: str
    config: dict[str, object]
    warnings: tuple[str, ...] = ()


class ConfigCheckResult(Struct, frozen=True, kw_only=True):
    """The outcome of loading the files as they are now."""

    ok: bool
    path: str
    message: str = ""
    hint: str = ""
    warnings: tuple[str, ...] = ()


ROWS: dict[str, Method] = {
    "config.get": Method(NoParams, ConfigResult, inline=True),
    "config.check": Method(NoParams, ConfigCheckResult),
}
