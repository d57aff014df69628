"""A home → its Config: walrus.toml and agents/*.md read, checked whole, merged and resolved.

All that is wrong is said at once, in two steps: first what is not well written, then what does not fit together.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from walrus_config.check_heartbeats import check_heartbeats
from walrus_config.decode_tables import decode_section
from walrus_config.diagnostics import Diagnostics, SourceFile
from walrus_config.errors import ConfigError, ConfigProblem, config_error
from walrus_config.masked import mask_secrets
from walrus_config.merge_agents import check_agent_models, check_tools, merge_agents, merge_front_matter
from walrus_config.paths import expand, home_path, home_paths, socket_path
from walrus_config.prompts import read_prompts
from walrus_config.providers import check_models, resolve_provider
from walrus_config.read_files import parse_toml, read_text
from walrus_config.schema import Config, DaemonSettings, RawConfig
from walrus_config.toml_positions import find_key_lines

__all__ = ["ConfigError", "ConfigProblem", "load", "mask_secrets"]

NO_PROVIDER_WARNING = "none is configured, so agents answer with an error"
MAX_TOML = 1024 * 1024
"""Bytes: ten thousand agents fit."""
_API_KEY_VARIABLES = ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "OPENROUTER_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY")
"""Of services that speak the OpenAI wire."""


def load(home: str | Path, *, environ: Mapping[str, str]) -> Config:
    """The Config of a home. Writes nothing. Raises ConfigError, with all that is wrong."""
    where = home_paths(home_path(str(home), environ))
    try:
        text = read_text(where.toml, limit=MAX_TOML)
    except FileNotFoundError as error:
        raise config_error(
            where.toml, "there is no such file", "`walrusd --init` writes a commented one; an empty one will do"
        ) from error
    toml = parse_toml(where.toml, text)
    prompts, broken = read_prompts(where.agents)
    notes = Diagnostics(
        SourceFile(where.toml, toml, lambda: find_key_lines(text)),
        {name: prompt.source for name, prompt in prompts.items()},
    )
    notes.add_errors(broken)
    merged = merge_front_matter(toml, prompts, notes)
    tables = decode_section(RawConfig, merged, (), notes)
    notes.raise_if_errors()
    assert tables is not None, "what was refused is in the notes"

    providers = {
        name: resolve_provider(name, provider, environ=environ, home=where.home, toml=where.toml, diagnostics=notes)
        for name, provider in tables.providers.items()
    }
    written = merged.get("agents", {})
    assert isinstance(written, dict), "tables were made from it"
    agents = merge_agents(tables, written, prompts, where, environ, notes)
    check_models(providers, tables.models, notes)
    check_agent_models(tables, agents, notes)
    check_tools(tables, notes)
    check_heartbeats(tables, written, agents, notes)
    daemon = _resolve_daemon(tables.daemon, where.home, environ, notes)
    if not providers:
        notes.add_warning(("providers",), NO_PROVIDER_WARNING, _provider_hint(environ))
    notes.raise_if_errors()
    return Config(
        home=where.home,
        path=where.toml,
        daemon=daemon,
        providers=providers,
        models=tables.models,
        agents=agents,
        permissions=tables.permissions,
        tools=tables.tools,
        sessions=tables.sessions,
        storage=tables.storage,
        warnings=notes.warnings,
    )


def _resolve_daemon(
    daemon: DaemonSettings, home: str, environ: Mapping[str, str], diagnostics: Diagnostics
) -> DaemonSettings:
    """The socket made absolute; an empty one stays empty."""
    if not daemon.socket:
        return daemon
    path = expand(daemon.socket, environ, base=home)
    try:
        return replace(daemon, socket=socket_path(path, environ, home))
    except ConfigError as error:
        diagnostics.add_error(("daemon", "socket"), error.problems[0].message, "choose a shorter one")
        return daemon


def _provider_hint(environ: Mapping[str, str]) -> str:
    seen = [name for name in _API_KEY_VARIABLES if environ.get(name)]
    ready = f"{' and '.join(seen)} could be used: " if seen else ""
    return f"{ready}write a [providers.NAME] table, as in the sample"
