"""The tables of walrus.toml, a file each: every key, with its type, bounds, default and checks.

A table is a field of RawConfig and of Config. Everything else follows from the fields: decoding, checks, the keys that
need a restart, `config.get`, and what the sample must show.

Only `load` creates them from the file. A Config is always complete: secrets are resolved, agents are merged from
defaults, TOML and prompt files, and paths are absolute.
"""

from collections.abc import Iterator, Mapping

from msgspec import field
from msgspec.structs import fields, replace

from walrus_config.diagnostics import Diagnostics, Location
from walrus_config.schema.agents import *
from walrus_config.schema.daemon import *
from walrus_config.schema.heartbeats import *
from walrus_config.schema.models import *
from walrus_config.schema.permissions import *
from walrus_config.schema.providers import *
from walrus_config.schema.section import ResolveContext, section_in
from walrus_config.schema.section import Section as Section
from walrus_config.schema.sessions import *
from walrus_config.schema.storage import *
from walrus_config.schema.tools import *
from walrus_config.secrets import Secret as Secret


class RawConfig(Section, frozen=True, kw_only=True):
    """The content of walrus.toml and of front matter, before defaults are merged and secrets resolved.

    Sections are checked in the order of these fields.
    """

    unsupported_keys = ("budget", "mcps", "schedule")

    daemon: DaemonSettings = DaemonSettings()
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    tools: Mapping[str, ToolSettings] = field(default_factory=dict)
    defaults: BaseAgentSettings = BaseAgentSettings()
    agents: Mapping[str, BaseAgentSettings] = field(default_factory=dict)
    permissions: PermissionSettings = PermissionSettings()
    sessions: SessionSettings = SessionSettings()
    storage: StorageSettings = StorageSettings()


class Config(Section, frozen=True, kw_only=True):
    """The complete configuration of walrusd."""

    home: str
    path: str
    """The walrus.toml it was read from."""
    daemon: DaemonSettings = DaemonSettings()
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    agents: Mapping[str, AgentSettings] = field(default_factory=dict)
    permissions: PermissionSettings = PermissionSettings()
    tools: Mapping[str, ToolSettings] = field(default_factory=dict)
    sessions: SessionSettings = SessionSettings()
    storage: StorageSettings = StorageSettings()
    warnings: tuple[str, ...] = ()


def section_types(root: type[Section]) -> Iterator[type[Section]]:
    """Iterates over a type and the types of all tables in it, in the order of the fields."""
    yield root
    yield from root.types_by_name().values()
    for key in fields(root):
        if section_type := section_in(key.type):
            yield from section_types(section_type)


_CHECK_ORDER = list(dict.fromkeys(section_types(RawConfig)))


def check_sections(config: RawConfig, diagnostics: Diagnostics) -> None:
    """Checks all sections: type by type, and those of a type from the top down."""
    found = [*_iter_sections(config, Location(diagnostics, ()))]
    for at, section in sorted(found, key=lambda pair: (_CHECK_ORDER.index(type(pair[1])), len(pair[0].path))):
        section.check(at)


def resolve_sections(config: RawConfig, context: ResolveContext, diagnostics: Diagnostics) -> RawConfig:
    """Returns the configuration with resolved sections."""
    resolved: dict[str, object] = {}
    for name in config.__struct_fields__:
        table, at = getattr(config, name), Location(diagnostics, (name,))
        if isinstance(table, Section):
            resolved[name] = table.resolve(at, context)
        else:
            resolved[name] = {key: entry.resolve(at.key(key), context) for key, entry in table.items()}
    return replace(config, **resolved)


def _iter_sections(value: object, at: Location) -> Iterator[tuple[Location, Section]]:
    if isinstance(value, Section):
        yield at, value
        for name in value.__struct_fields__:
            yield from _iter_sections(getattr(value, name), at.key(name))
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _iter_sections(entry, at.key(name))
