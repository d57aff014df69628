"""The permissions gate: decides by tool name, at each call. A tool that no rule allows is denied."""

from msgspec import Struct

from walrus_config import schema as config
from walrusd.dispatch.gate import PolicySnapshot, Refusal
from walrusd.ports import ToolRequest


class Verdict(Struct, frozen=True, kw_only=True):
    """A permission decision, with the key of walrus.toml that decided and its `rule`.

    An example of a rule is "agents.researcher.permissions.deny: read".
    """

    allowed: bool
    key: str
    rule: str


def decide_permission(policy: PolicySnapshot, agent: str, tool: str) -> Verdict:
    """Decides by the first tier that names the tool: the agent's, then the global one.

    In a tier, deny takes precedence over allow. If no tier names the tool, the default decides: the agent's, else the
    global one, else deny.
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
    """Refuses a tool that is not permitted; the text names the key that the user would have to change."""
    agent, tool = request.agent, request.call.name
    verdict = decide_permission(policy, agent, tool)
    if verdict.allowed:
        return None
    if verdict.key.endswith(".deny"):
        change = f'removing "{tool}" from {verdict.key}'
    else:
        change = f'adding "{tool}" to agents.{agent}.permissions.allow'
    return Refusal(
        outcome="denied",
        rule=verdict.rule,
        text=f"{tool} is not permitted ({verdict.rule}). Only the user can permit it, by {change} in walrus.toml. "
        "Do not call it again. Continue without it, or tell the user what you need it for.",
    )
