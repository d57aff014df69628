"""The tables of walrus.toml, a file each: every key, with its type, bounds, default and checks.

Only `load` creates them from the file. A Config is always complete: secrets are resolved, agents are merged from
defaults, TOML and prompt files, and paths are absolute.
"""

from walrus_config.schema.agents import AgentSettings, BaseAgentSettings
from walrus_config.schema.daemon import DaemonSettings
from walrus_config.schema.heartbeats import HeartbeatSettings
from walrus_config.schema.models import ModelSettings, PriceSettings
from walrus_config.schema.permissions import PermissionSettings
from walrus_config.schema.providers import OPENAI_URL, ProviderSettings
from walrus_config.schema.registry import Config, RawConfig
from walrus_config.schema.section import Section
from walrus_config.schema.sessions import SessionSettings
from walrus_config.schema.storage import StorageSettings
from walrus_config.schema.tools import BashToolSettings, ToolSettings, is_bash_offered
from walrus_config.secrets import Secret

__all__ = [
    "OPENAI_URL",
    "AgentSettings",
    "BaseAgentSettings",
    "BashToolSettings",
    "Config",
    "DaemonSettings",
    "HeartbeatSettings",
    "ModelSettings",
    "PermissionSettings",
    "PriceSettings",
    "ProviderSettings",
    "RawConfig",
    "Secret",
    "Section",
    "SessionSettings",
    "StorageSettings",
    "ToolSettings",
    "is_bash_offered",
]
