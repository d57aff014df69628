"""A home → its Config: walrus.toml and agents/*.md read, checked whole, merged and resolved.

All that is wrong is said at once, in two steps: first what is not well written, then what does not fit together.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from walrus_config.agents import check_models_of_agents, check_tools, settle_agents, with_front_matter
from walrus_config.heartbeats import check_heartbeats
from walrus_config.lines import key_lines
from walrus_config.notes import Notes, Source
from walrus_config.paths import expand, home_path, paths, socket_path
from walrus_config.problems import ConfigError, ConfigProblem, refusal
from walrus_config.prompts import read_prompts
from walrus_config.providers import check_models, settle_provider
from walrus_config.reading import parse_toml, read_text
from walrus_config.schema import Config, Daemon, Tables
from walrus_config.shown import shown
from walrus_config.strict import fill

__all__ = ["ConfigError", "ConfigProblem", "load", "shown"]

NO_PROVIDER = "none is configured, so agents answer with an error"
MAX_TOML = 1024 * 1024
"""Bytes: ten thousand agents fit."""
_KEYS_IN_ENVIRONMENT = ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "OPENROUTER_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY")
"""Of services that speak the OpenAI wire."""


def load(home: str | Path, *, environ: Mapping[str, str]) -> Config:
    """The Config of a home. Writes nothing. Raises ConfigError, with all that is wrong."""
    where = paths(home_path(str(home), environ))
    try:
        text = read_text(where.toml, limit=MAX_TOML)
    except FileNotFoundError as error:
        raise refusal(
            where.toml, "there is no such file", "`walrusd --init` writes a commented one; an empty one will do"
        ) from error
    toml = parse_toml(where.toml, text)
    prompts, broken = read_prompts(where.agents)
    notes = Notes(
        Source(where.toml, toml, lambda: key_lines(text)), {name: prompt.source for name, prompt in prompts.items()}
    )
    notes.refuse_all(broken)
    merged = with_front_matter(toml, prompts, notes)
    tables = fill(Tables, merged, (), notes)
    notes.settle()
    assert tables is not None, "what was refused is in the notes"

    providers = {
        name: settle_provider(name, provider, environ=environ, home=where.home, toml=where.toml, notes=notes)
        for name, provider in tables.providers.items()
    }
    written = merged.get("agents", {})
    assert isinstance(written, dict), "tables were made from it"
    agents = settle_agents(tables, written, prompts, where, environ, notes)
    check_models(providers, tables.models, notes)
    check_models_of_agents(tables, agents, notes)
    check_tools(tables, notes)
    check_heartbeats(tables, written, agents, notes)
    daemon = _settle_daemon(tables.daemon, where.home, environ, notes)
    if not providers:
        notes.warn(("providers",), NO_PROVIDER, _what_to_configure(environ))
    notes.settle()
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


def _settle_daemon(daemon: Daemon, home: str, environ: Mapping[str, str], notes: Notes) -> Daemon:
    """The socket made absolute; an empty one stays empty."""
    if not daemon.socket:
        return daemon
    path = expand(daemon.socket, environ, base=home)
    try:
        return replace(daemon, socket=socket_path(path, environ, home))
    except ConfigError as error:
        notes.refuse(("daemon", "socket"), error.problems[0].message, "choose a shorter one")
        return daemon


def _what_to_configure(environ: Mapping[str, str]) -> str:
    seen = [name for name in _KEYS_IN_ENVIRONMENT if environ.get(name)]
    ready = f"{' and '.join(seen)} could be used: " if seen else ""
    return f"{ready}write a [providers.NAME] table, as in the sample"
