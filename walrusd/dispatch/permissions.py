"""The gate of permission: by tool name, asked at each call. What nothing allows is denied."""

from msgspec import Struct

from walrus_config import schema as config
from walrusd.dispatch.gate import PolicySnapshot, Refusal
from walrusd.ports import ToolRequest


class Verdict(Struct, frozen=True, kw_only=True):
    """`key` is the one of walrus.toml that decided, and `rule` its line: "agents.researcher.permissions.deny: read"."""

    allowed: bool
    key: str
    rule: str


def decide_permission(policy: PolicySnapshot, agent: str, tool: str) -> Verdict:
    """The nearest tier that names the tool decides: the agent's, then everyone's. Inside a tier deny beats allow.

    A default speaks only where no tier names the tool: the agent's, else everyone's, else deny.
    """
    tiers: list[tuple[str, config.PermissionSettings]] = [("permissions", policy.permissions)]
    if agent in policy.agents:
        tiers.insert(0, (f"agents.{agent}.permissions", policy.agents[agent].permissions))
    for key, tier in tiers:
        if tool in tier.deny:
            return Verdict(allowed=False, key=f"{key}.deny", rule=f"{key}.deny: {tool}")
        if tool in tier.allow:
            return Verdict(allowed=True, key=f"{key}.allow", rule=f"{key}.allow: {tool}")
    for key, tier in tiers:
        if tier.default is not None:
            return Verdict(allowed=tier.default == "allow", key=f"{key}.default", rule=f"{key}.default: {tier.default}")
    return Verdict(allowed=False, key="permissions.default", rule="permissions.default: deny")


def permissions(policy: PolicySnapshot, request: ToolRequest) -> Refusal | None:
    """Refuses what is not permitted, and says which key the user would have to change."""
    agent, tool = request.agent, request.call.name
    found = decide_permission(policy, agent, tool)
    if found.allowed:
        return None
    if found.key.endswith(".deny"):
        change = f'takes "{tool}" out of {found.key}'
    else:
        change = f'adds "{tool}" to agents.{agent}.permissions.allow'
    return Refusal(
        outcome="denied",
        rule=found.rule,
        text=f"{tool} is not permitted ({found.rule}). Only the user can permit it: who {change} in walrus.toml "
        "does. Do not try it again; go on without it, or tell the user what you need it for.",
    )
