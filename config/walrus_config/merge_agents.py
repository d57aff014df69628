"""Merges [defaults], [agents], agents/*.md and the built-in agent to complete agents, and checks them."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

from msgspec.structs import asdict, replace

from walrus_config.diagnostics import Diagnostics
from walrus_config.errors import did_you_mean
from walrus_config.paths import Paths, expand
from walrus_config.prompts import AGENT_NAME, AGENT_NAME_RULE, Prompt
from walrus_config.providers import find_provider, model_names, nearest_model_hint
from walrus_config.scaffold import BUILT_IN_AGENT, BUILT_IN_DESCRIPTION, BUILT_IN_PROMPT
from walrus_config.schema import (
    KNOWN_TOOLS,
    AgentSettings,
    BaseAgentSettings,
    PermissionSettings,
    RawConfig,
    Section,
    is_bash_offered,
)
from walrus_config.toml_positions import KeyPath

S = TypeVar("S", bound=Section)

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
    raw_agents: Mapping[str, object],
    prompts: Mapping[str, Prompt],
    paths: Paths,
    environ: Mapping[str, str],
    diagnostics: Diagnostics,
) -> dict[str, AgentSettings]:
    """Returns every complete agent by name.

    `raw_agents` are the agents' tables before decoding; they show which keys were set.
    """
    agents: dict[str, AgentSettings] = {}
    agents_by_workspace = defaultdict[tuple[KeyPath, str], list[str]](list)
    for name in dict.fromkeys((BUILT_IN_AGENT, *raw_config.agents, *prompts)):
        own = raw_agents.get(name, {})
        assert isinstance(own, dict), "it was decoded without errors"
        keys = merge_section(raw_config.defaults, raw_config.agents.get(name, BaseAgentSettings()), own)
        if name == BUILT_IN_AGENT and not keys.description:
            keys = replace(keys, description=BUILT_IN_DESCRIPTION)
        if not AGENT_NAME.fullmatch(name):
            diagnostics.add_error(("agents", name), "not a valid agent name", AGENT_NAME_RULE)
        key_path: KeyPath = ("agents", name, "workspace") if "workspace" in own else ("defaults", "workspace")
        workspace = expand(keys.workspace, environ, base=paths.home) if keys.workspace else paths.workspace
        agents_by_workspace[key_path, workspace].append(name)
        prompt = _system_prompt(name, keys.description, prompts.get(name), diagnostics)
        agents[name] = AgentSettings(**asdict(replace(keys, workspace=workspace)), name=name, system_prompt=prompt)
    for (key_path, workspace), names in agents_by_workspace.items():
        _check_workspace(workspace, names, key_path, diagnostics, created_at_start=workspace == paths.workspace)
    if without_prompt := [name for name in agents if name not in prompts and name != BUILT_IN_AGENT]:
        message = f"agents without a prompt file: {', '.join(without_prompt)}"
        diagnostics.add_warning(
            ("agents",), message, "write agents/NAME.md; until then the prompt is made from the description"
        )
    return agents


def merge_section(base: S, overrides: S, written_keys: Mapping[str, object]) -> S:
    """Returns `base` with the written keys of `overrides`; tables are merged key by key."""
    changes: dict[str, object] = {}
    for key, value in written_keys.items():
        changes[key] = getattr(overrides, key)
        if isinstance(value, dict):
            changes[key] = merge_section(getattr(base, key), getattr(overrides, key), value)
    return replace(base, **changes)


def _check_workspace(
    path: str, names: list[str], key_path: KeyPath, diagnostics: Diagnostics, *, created_at_start: bool
) -> None:
    """Checks the workspace of the agents `names`.

    If `created_at_start`, walrusd creates a missing one at its start.
    """
    if os.path.isdir(path):
        return
    if os.path.lexists(path):
        diagnostics.add_error(key_path, f"{path} is not a folder")
    elif not created_at_start:
        diagnostics.add_warning(key_path, f"there is no folder {path} for {', '.join(names)} to work in", "create it")


def _system_prompt(name: str, description: str, prompt: Prompt | None, diagnostics: Diagnostics) -> str:
    if prompt is not None and prompt.text:
        return prompt.text
    if name == BUILT_IN_AGENT:
        return BUILT_IN_PROMPT
    if prompt is not None:
        message = f"{prompt.source.file} has no text: its system prompt is made from its description"
        diagnostics.add_warning(("agents", name), message)
    return f"You are {name}, an agent. {description}".rstrip()


def check_agent_models(raw_config: RawConfig, agents: Mapping[str, AgentSettings], diagnostics: Diagnostics) -> None:
    """Checks that each named model has a provider. Without any provider, `load` gives one warning instead."""
    providers = raw_config.providers
    if not providers:
        return
    keys: dict[KeyPath, BaseAgentSettings] = {("defaults",): raw_config.defaults}
    keys |= {("agents", name): table for name, table in raw_config.agents.items()}
    for at, table in keys.items():
        if table.model and find_provider(table.model, providers) is None:
            message = f"no provider has the model {json.dumps(table.model)}"
            diagnostics.add_error((*at, "model"), message, nearest_model_hint(table.model, providers))
    has_one_model = sum(len(model_names(name, provider)) for name, provider in providers.items()) == 1
    if not has_one_model and (without_model := [name for name, agent in agents.items() if not agent.model]):
        message = f"not set, and these agents name no model: {', '.join(without_model)}"
        diagnostics.add_warning(("defaults", "model"), message, "set one; until then these agents answer with an error")


def check_tools(raw_config: RawConfig, diagnostics: Diagnostics) -> None:
    """Checks all tool names: an invalid one is an error, and one that walrusd does not know is a warning."""
    for name, tool in raw_config.tools.items():
        _check_tool(name, ("tools", name), diagnostics)
        if tool.sandbox and name != "bash":
            diagnostics.add_error(("tools", name, "sandbox"), "only bash has this key", "remove it")
    _check_bash(raw_config, diagnostics)
    tiers: dict[KeyPath, PermissionSettings] = {("permissions",): raw_config.permissions}
    keys: dict[KeyPath, BaseAgentSettings] = {("defaults",): raw_config.defaults}
    keys |= {("agents", name): table for name, table in raw_config.agents.items()}
    lists: dict[KeyPath, tuple[str, ...]] = {}
    for at, table in keys.items():
        tiers[*at, "permissions"] = table.permissions
        lists |= {(*at, "tools"): table.tools, (*at, "deny_tools"): table.deny_tools}
    for at, tier in tiers.items():
        lists |= {(*at, "allow"): tier.allow, (*at, "deny"): tier.deny}
    for at, names in lists.items():
        for index, name in enumerate(names):
            _check_tool(name, (*at, index), diagnostics)
            if name == "bash" and at[-1] in ("tools", "allow") and "bash" not in raw_config.tools:
                diagnostics.add_warning(
                    (*at, index), "bash is not offered", 'it needs [tools.bash] sandbox = "none"; see the sample'
                )


def _check_bash(raw_config: RawConfig, diagnostics: Diagnostics) -> None:
    """Warns if bash is offered without a sandbox, and if it is configured but not offered."""
    if is_bash_offered(raw_config.tools):
        message = "bash runs without a sandbox and can do whatever you can do"
        diagnostics.add_warning(("tools", "bash", "sandbox"), message, "so can every agent that is permitted to use it")
    elif "bash" in raw_config.tools and raw_config.tools["bash"].enabled:
        message = "bash is not offered: there is no sandbox for it yet"
        diagnostics.add_warning(("tools", "bash"), message, 'sandbox = "none" offers it without one')


def _check_tool(name: str, key_path: KeyPath, diagnostics: Diagnostics) -> None:
    if not _TOOL_NAME.fullmatch(name):
        # A pattern used as a name would match nothing: fatal in a deny.
        diagnostics.add_error(
            key_path, f"{json.dumps(name)} is not a valid tool name", "patterns are not available yet"
        )
    elif name not in KNOWN_TOOLS:
        diagnostics.add_warning(key_path, f"no tool is called {name}", did_you_mean(name, KNOWN_TOOLS))
