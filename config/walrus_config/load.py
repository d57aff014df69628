"""Loads the Config of a home: reads, checks, merges and resolves walrus.toml and agents/*.md.

All errors are reported together, in two steps: first errors of syntax, keys and types, then errors between settings.
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
"""Maximum bytes of walrus.toml; ten thousand agents fit."""
_API_KEY_VARIABLES = ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "OPENROUTER_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY")
"""Environment variables with keys of services that are compatible with OpenAI."""


def load(home: str | Path, *, environ: Mapping[str, str]) -> Config:
    """Returns the Config of a home. Writes nothing. Raises ConfigError with all errors."""
    paths = home_paths(home_path(str(home), environ))
    try:
        text = read_text(paths.toml, limit=MAX_TOML)
    except FileNotFoundError as error:
        raise config_error(
            paths.toml, "there is no such file", "create it with `walrusd --init`; an empty file is enough"
        ) from error
    toml = parse_toml(paths.toml, text)
    prompts, prompt_problems = read_prompts(paths.agents)
    diagnostics = Diagnostics(
        SourceFile(paths.toml, toml, lambda: find_key_lines(text)),
        {name: prompt.source for name, prompt in prompts.items()},
    )
    diagnostics.add_errors(prompt_problems)
    merged = merge_front_matter(toml, prompts, diagnostics)
    raw_config = decode_section(RawConfig, merged, (), diagnostics)
    diagnostics.raise_if_errors()
    assert raw_config is not None, "decode_section reports an error when it returns None"

    providers = {
        name: resolve_provider(
            name, provider, environ=environ, home=paths.home, toml=paths.toml, diagnostics=diagnostics
        )
        for name, provider in raw_config.providers.items()
    }
    raw_agents = merged.get("agents", {})
    assert isinstance(raw_agents, dict), "it was decoded without errors"
    agents = merge_agents(raw_config, raw_agents, prompts, paths, environ, diagnostics)
    check_models(providers, raw_config.models, diagnostics)
    check_agent_models(raw_config, agents, diagnostics)
    check_tools(raw_config, diagnostics)
    check_heartbeats(raw_config, raw_agents, agents, diagnostics)
    daemon = _resolve_daemon(raw_config.daemon, paths.home, environ, diagnostics)
    if not providers:
        diagnostics.add_warning(("providers",), NO_PROVIDER_WARNING, _provider_hint(environ))
    diagnostics.raise_if_errors()
    return Config(
        home=paths.home,
        path=paths.toml,
        daemon=daemon,
        providers=providers,
        models=raw_config.models,
        agents=agents,
        permissions=raw_config.permissions,
        tools=raw_config.tools,
        sessions=raw_config.sessions,
        storage=raw_config.storage,
        warnings=diagnostics.warnings,
    )


def _resolve_daemon(
    daemon: DaemonSettings, home: str, environ: Mapping[str, str], diagnostics: Diagnostics
) -> DaemonSettings:
    """Returns the settings with an absolute socket path; an empty one stays empty."""
    if not daemon.socket:
        return daemon
    path = expand(daemon.socket, environ, base=home)
    try:
        return replace(daemon, socket=socket_path(path, environ, home))
    except ConfigError as error:
        diagnostics.add_error(("daemon", "socket"), error.problems[0].message, "choose a shorter one")
        return daemon


def _provider_hint(environ: Mapping[str, str]) -> str:
    """Returns the hint for a home without providers; it names API keys that the environment has."""
    variables = [name for name in _API_KEY_VARIABLES if environ.get(name)]
    available = f"{' and '.join(variables)} could be used: " if variables else ""
    return f"{available}write a [providers.NAME] table, as in the sample"
