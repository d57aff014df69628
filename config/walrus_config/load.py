"""Loads the Config of a home: reads, checks, merges and resolves walrus.toml and agents/*.md.

All errors are reported together, in two steps: first errors of syntax, keys and types, then errors between settings.
"""

from collections.abc import Mapping
from pathlib import Path

from walrus_config.decode_tables import decode_section
from walrus_config.diagnostics import Diagnostics, Location, SourceFile
from walrus_config.errors import config_error
from walrus_config.merge_agents import merge_agents, merge_front_matter
from walrus_config.paths import home_path, home_paths
from walrus_config.prompts import read_prompts
from walrus_config.read_files import parse_toml, read_text
from walrus_config.schema import Config, RawConfig, check_sections, resolve_sections
from walrus_config.schema.heartbeats import check_jitter
from walrus_config.schema.models import check_agent_models, check_models
from walrus_config.schema.section import ResolveContext
from walrus_config.toml_positions import find_key_lines

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
    raw_config = decode_section(RawConfig, merged, Location(diagnostics, ()))
    diagnostics.raise_if_errors()
    assert raw_config is not None, "decode_section reports an error when it returns None"

    context = ResolveContext(paths=paths, environ=environ)
    config = resolve_sections(raw_config, context, diagnostics)
    agents = merge_agents(config, prompts, context, diagnostics)
    check_models(config.providers, config.models, diagnostics)
    check_agent_models(config.defaults, config.agents, agents, config.providers, diagnostics)
    check_sections(config, diagnostics)
    for name, agent in agents.items():
        check_jitter(name, agent.heartbeat, diagnostics)
    if not config.providers:
        diagnostics.add_warning(("providers",), NO_PROVIDER_WARNING, _provider_hint(environ))
    diagnostics.raise_if_errors()
    sections = {name: getattr(config, name) for name in config.__struct_fields__ if name not in ("defaults", "agents")}
    return Config(home=paths.home, path=paths.toml, agents=agents, warnings=diagnostics.warnings, **sections)


def _provider_hint(environ: Mapping[str, str]) -> str:
    """Returns the hint for a home without providers; it names API keys that the environment has."""
    variables = [name for name in _API_KEY_VARIABLES if environ.get(name)]
    available = f"{' and '.join(variables)} could be used: " if variables else ""
    return f"{available}write a [providers.NAME] table, as in the sample"
