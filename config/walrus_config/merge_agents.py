"""Merges [defaults], [agents], agents/*.md and the built-in agent to complete agents."""

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

from msgspec.structs import asdict, replace

from walrus_config.diagnostics import Diagnostics, Location
from walrus_config.paths import expand
from walrus_config.prompts import AGENT_NAME, AGENT_NAME_RULE, Prompt
from walrus_config.scaffold import BUILT_IN_AGENT, BUILT_IN_DESCRIPTION, BUILT_IN_PROMPT
from walrus_config.schema import AgentSettings, BaseAgentSettings, RawConfig, Section
from walrus_config.schema.section import ResolveContext
from walrus_config.toml_positions import KeyPath

S = TypeVar("S", bound=Section)


def merge_front_matter(
    toml: dict[str, object], prompts: Mapping[str, Prompt], diagnostics: Diagnostics
) -> dict[str, object]:
    """Returns the agents' tables with each prompt's front matter merged; refuses keys set in both."""
    agents = toml.get("agents", {})
    if not isinstance(agents, dict):
        return toml
    merged = dict(agents)
    for name, prompt in prompts.items():
        own = agents.get(name, {})
        if not isinstance(own, dict):
            continue
        for key in prompt.source.keys & own.keys():
            path: KeyPath = ("agents", name, key)
            diagnostics.add_error(
                path, f"also set in {diagnostics.toml.file}:{diagnostics.toml.find_line(path)}", "keep one of the two"
            )
        merged[name] = own | dict(prompt.source.keys)
    return toml | {"agents": merged}


def merge_agents(
    raw_config: RawConfig,
    prompts: Mapping[str, Prompt],
    context: ResolveContext,
    diagnostics: Diagnostics,
) -> dict[str, AgentSettings]:
    """Returns every complete agent by name."""
    paths = context.paths
    agents: dict[str, AgentSettings] = {}
    agents_by_workspace = defaultdict[tuple[Location, str], list[str]](list)
    for name in dict.fromkeys((BUILT_IN_AGENT, *raw_config.agents, *prompts)):
        at = Location(diagnostics, ("agents", name))
        own = raw_config.agents.get(name, BaseAgentSettings())
        keys = _merge_section(raw_config.defaults, own, at)
        if name == BUILT_IN_AGENT and not keys.description:
            keys = replace(keys, description=BUILT_IN_DESCRIPTION)
        if not AGENT_NAME.fullmatch(name):
            at.add_error("not a valid agent name", AGENT_NAME_RULE)
        own_key, default_key = at.key("workspace"), Location(diagnostics, ("defaults", "workspace"))
        workspace = expand(keys.workspace, context.environ, base=paths.home) if keys.workspace else paths.workspace
        agents_by_workspace[own_key if own_key.is_set else default_key, workspace].append(name)
        prompt = _system_prompt(name, keys.description, prompts.get(name), at)
        agents[name] = AgentSettings(**asdict(replace(keys, workspace=workspace)), name=name, system_prompt=prompt)
    for (key, workspace), names in agents_by_workspace.items():
        _check_workspace(workspace, names, key, created_at_start=workspace == paths.workspace)
    if without_prompt := [name for name in agents if name not in prompts and name != BUILT_IN_AGENT]:
        message = f"agents without a prompt file: {', '.join(without_prompt)}"
        diagnostics.add_warning(
            ("agents",), message, "write agents/NAME.md; until then the prompt is made from the description"
        )
    return agents


def _merge_section(base: S, overrides: S, at: Location) -> S:
    """Returns `base` with the keys of `overrides` that a file sets; tables are merged key by key."""
    changes: dict[str, object] = {}
    for key in base.__struct_fields__:
        value = getattr(overrides, key)
        if at.key(key).is_set:
            is_table = isinstance(value, Section)
            changes[key] = _merge_section(getattr(base, key), value, at.key(key)) if is_table else value
    return replace(base, **changes)


def _check_workspace(path: str, names: list[str], at: Location, *, created_at_start: bool) -> None:
    """Checks the workspace of the agents `names`.

    If `created_at_start`, walrusd creates a missing one at its start.
    """
    if os.path.isdir(path):
        return
    if os.path.lexists(path):
        at.add_error(f"{path} is not a folder")
    elif not created_at_start:
        at.add_warning(f"there is no folder {path} for {', '.join(names)} to work in", "create it")


def _system_prompt(name: str, description: str, prompt: Prompt | None, at: Location) -> str:
    if prompt is not None and prompt.text:
        return prompt.text
    if name == BUILT_IN_AGENT:
        return BUILT_IN_PROMPT
    if prompt is not None:
        at.add_warning(f"{prompt.source.file} has no text: its system prompt is made from its description")
    return f"You are {name}, an agent. {description}".rstrip()
