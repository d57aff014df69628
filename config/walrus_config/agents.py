"""[defaults], [agents], agents/*.md and the agent that is always there → whole agents."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

from msgspec.structs import asdict, replace

from walrus_config.lines import KeyPath
from walrus_config.notes import Notes
from walrus_config.paths import Paths, expand
from walrus_config.problems import did_you_mean
from walrus_config.prompts import AGENT_NAME, AGENT_NAME_RULE, Prompt
from walrus_config.providers import models_of, nearest_model, provider_of
from walrus_config.scaffold import BUILT_IN_AGENT, BUILT_IN_DESCRIPTION, BUILT_IN_PROMPT
from walrus_config.schema import KNOWN_TOOLS, Agent, AgentKeys, Permissions, Section, Tables, offers_bash

S = TypeVar("S", bound=Section)

_TOOL = re.compile(r"[A-Za-z0-9_-]{1,64}")


def with_front_matter(toml: dict[str, object], prompts: Mapping[str, Prompt], notes: Notes) -> dict[str, object]:
    """The tables with each prompt's front matter put into its agent's. A key that stands in both is refused."""
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
            notes.refuse(path, f"also in {notes.toml.file}:{notes.toml.line(path)}", "keep one of the two")
        merged[name] = own | dict(prompt.source.keys)
    return toml | {"agents": merged}


def settle_agents(
    tables: Tables,
    written: Mapping[str, object],
    prompts: Mapping[str, Prompt],
    where: Paths,
    environ: Mapping[str, str],
    notes: Notes,
) -> dict[str, Agent]:
    """Every agent, whole. `written` is the agents' part of what `tables` was made from: it tells what was set."""
    agents: dict[str, Agent] = {}
    working = defaultdict[tuple[KeyPath, str], list[str]](list)
    for name in dict.fromkeys((BUILT_IN_AGENT, *tables.agents, *prompts)):
        own = written.get(name, {})
        assert isinstance(own, dict), "tables were made from it"
        keys = overlay(tables.defaults, tables.agents.get(name, AgentKeys()), own)
        if name == BUILT_IN_AGENT and not keys.description:
            keys = replace(keys, description=BUILT_IN_DESCRIPTION)
        if not AGENT_NAME.fullmatch(name):
            notes.refuse(("agents", name), "not a name for an agent", AGENT_NAME_RULE)
        place: KeyPath = ("agents", name, "workspace") if "workspace" in own else ("defaults", "workspace")
        workspace = expand(keys.workspace, environ, base=where.home) if keys.workspace else where.workspace
        working[place, workspace].append(name)
        prompt = _system_prompt(name, keys.description, prompts.get(name), notes)
        agents[name] = Agent(**asdict(replace(keys, workspace=workspace)), name=name, system_prompt=prompt)
    for (place, workspace), names in working.items():
        _check_workspace(workspace, names, place, notes, made=workspace == where.workspace)
    if without := [name for name in agents if name not in prompts and name != BUILT_IN_AGENT]:
        message = f"agents without a prompt file: {', '.join(without)}"
        notes.warn(("agents",), message, "write agents/NAME.md; until then their descriptions are all they are told")
    return agents


def overlay(base: S, top: S, written: Mapping[str, object]) -> S:
    """`base` with those keys of `top` that were written, table by table."""
    changes: dict[str, object] = {}
    for key, value in written.items():
        changes[key] = getattr(top, key)
        if isinstance(value, dict):
            changes[key] = overlay(getattr(base, key), getattr(top, key), value)
    return replace(base, **changes)


def _check_workspace(path: str, names: list[str], at: KeyPath, notes: Notes, *, made: bool) -> None:
    """Of the agents with these names. `made`: walrusd makes it when it starts."""
    if os.path.isdir(path):
        return
    if os.path.lexists(path):
        notes.refuse(at, f"{path} is not a folder")
    elif not made:
        notes.warn(at, f"there is no folder {path}, where {', '.join(names)} should work", "make it")


def _system_prompt(name: str, description: str, prompt: Prompt | None, notes: Notes) -> str:
    if prompt is not None and prompt.text:
        return prompt.text
    if name == BUILT_IN_AGENT:
        return BUILT_IN_PROMPT
    if prompt is not None:
        message = f"{prompt.source.file} has no text: its system prompt is made from its description"
        notes.warn(("agents", name), message)
    return f"You are {name}, an agent. {description}".rstrip()


def check_models_of_agents(tables: Tables, agents: Mapping[str, Agent], notes: Notes) -> None:
    """Each model that is named can be reached. Without any provider nothing can, and that is said once, elsewhere."""
    providers = tables.providers
    if not providers:
        return
    keys: dict[KeyPath, AgentKeys] = {("defaults",): tables.defaults}
    keys |= {("agents", name): table for name, table in tables.agents.items()}
    for at, table in keys.items():
        if table.model and provider_of(table.model, providers) is None:
            message = f"no provider has the model {json.dumps(table.model)}"
            notes.refuse((*at, "model"), message, nearest_model(table.model, providers))
    only = sum(len(models_of(name, provider)) for name, provider in providers.items()) == 1
    if not only and (without := [name for name, agent in agents.items() if not agent.model]):
        message = f"not set, and needed by the agents that name no model of their own: {', '.join(without)}"
        notes.warn(("defaults", "model"), message, "until then they answer with an error")


def check_tools(tables: Tables, notes: Notes) -> None:
    """Tools are called by names that can be a tool's; one that walrusd does not know is taken with a warning."""
    for name, tool in tables.tools.items():
        _check_tool(name, ("tools", name), notes)
        if tool.sandbox and name != "bash":
            notes.refuse(("tools", name, "sandbox"), "only bash has one", "take it out")
    _check_bash(tables, notes)
    tiers: dict[KeyPath, Permissions] = {("permissions",): tables.permissions}
    keys: dict[KeyPath, AgentKeys] = {("defaults",): tables.defaults}
    keys |= {("agents", name): table for name, table in tables.agents.items()}
    lists: dict[KeyPath, tuple[str, ...]] = {}
    for at, table in keys.items():
        tiers[*at, "permissions"] = table.permissions
        lists |= {(*at, "tools"): table.tools, (*at, "deny_tools"): table.deny_tools}
    for at, tier in tiers.items():
        lists |= {(*at, "allow"): tier.allow, (*at, "deny"): tier.deny}
    for at, names in lists.items():
        for index, name in enumerate(names):
            _check_tool(name, (*at, index), notes)
            if name == "bash" and at[-1] in ("tools", "allow") and "bash" not in tables.tools:
                notes.warn(
                    (*at, index), "bash is not offered", 'it needs [tools.bash] sandbox = "none": see the sample'
                )


def _check_bash(tables: Tables, notes: Notes) -> None:
    """It is never offered in silence, and never left out in silence."""
    if offers_bash(tables.tools):
        message = "bash runs without a sandbox and can do whatever you can do"
        notes.warn(("tools", "bash", "sandbox"), message, "so may the agents that are permitted to use it")
    elif "bash" in tables.tools and tables.tools["bash"].enabled:
        message = "bash is not offered: there is no sandbox for it yet"
        notes.warn(("tools", "bash"), message, 'sandbox = "none" offers it without one')


def _check_tool(name: str, at: KeyPath, notes: Notes) -> None:
    if not _TOOL.fullmatch(name):
        # A pattern taken for a name would match nothing: fatal in a deny.
        notes.refuse(at, f"{json.dumps(name)} is not the name of a tool", "patterns are not available yet")
    elif name not in KNOWN_TOOLS:
        notes.warn(at, f"no tool is called {name}", did_you_mean(name, KNOWN_TOOLS))
