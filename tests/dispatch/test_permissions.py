"""Tests of the permissions gate: the rule that decides, for every combination of tiers."""

from hypothesis import given
from hypothesis import strategies as st

from tests.dispatch.pipeline_harness import FunctionTool, PipelineHarness, returning
from walrus_config.schema import AgentSettings, PermissionSettings
from walrusd.dispatch.gate import PolicySnapshot
from walrusd.dispatch.permissions import Verdict, decide_permission

tiers = st.builds(
    PermissionSettings,
    allow=st.sampled_from([(), ("read",), ("write",), ("write", "read")]),
    deny=st.sampled_from([(), ("read",), ("write",)]),
    default=st.sampled_from([None, "allow", "deny"]),
)


def check_permission(global_tier: PermissionSettings, agent_tier: PermissionSettings | None) -> Verdict:
    agents = {} if agent_tier is None else {"ann": AgentSettings(name="ann", permissions=agent_tier)}
    return decide_permission(PolicySnapshot(tools={}, agents=agents, permissions=global_tier), "ann", "read")


def expected_verdict(allowed: bool, key: str, value: str = "read") -> Verdict:
    return Verdict(allowed=allowed, key=key, rule=f"{key}: {value}")


def test_a_tool_that_no_rule_names_is_denied() -> None:
    assert check_permission(PermissionSettings(), None) == expected_verdict(False, "permissions.default", "deny")
    assert check_permission(PermissionSettings(), PermissionSettings()) == expected_verdict(
        False, "permissions.default", "deny"
    )


def test_the_first_tier_that_names_the_tool_decides() -> None:
    deny, allow = PermissionSettings(deny=("read",)), PermissionSettings(allow=("read",))
    assert check_permission(deny, allow) == expected_verdict(True, "agents.ann.permissions.allow")
    assert check_permission(allow, deny) == expected_verdict(False, "agents.ann.permissions.deny")
    assert check_permission(allow, PermissionSettings(default="deny")) == expected_verdict(True, "permissions.allow")
    assert check_permission(deny, PermissionSettings(default="allow")) == expected_verdict(False, "permissions.deny")


def test_deny_beats_allow_in_a_tier() -> None:
    both = PermissionSettings(allow=("read",), deny=("read",))
    assert check_permission(both, None) == expected_verdict(False, "permissions.deny")
    assert check_permission(PermissionSettings(allow=("read",)), both) == expected_verdict(
        False, "agents.ann.permissions.deny"
    )


def test_the_first_default_decides_if_no_tier_names_the_tool() -> None:
    assert check_permission(
        PermissionSettings(default="deny"), PermissionSettings(default="allow")
    ) == expected_verdict(True, "agents.ann.permissions.default", "allow")
    assert check_permission(PermissionSettings(default="allow"), PermissionSettings()) == expected_verdict(
        True, "permissions.default", "allow"
    )


@given(tiers, tiers)
def test_an_allowed_tool_is_allowed_by_an_existing_rule(
    global_tier: PermissionSettings, agent_tier: PermissionSettings
) -> None:
    verdict = check_permission(global_tier, agent_tier)
    tier = agent_tier if verdict.key.startswith("agents.ann.") else global_tier
    if verdict.allowed:
        assert verdict.rule.endswith(("allow: read", "default: allow"))
        assert "read" in tier.allow or tier.default == "allow"
        assert "read" not in agent_tier.deny
    else:
        assert "read" in tier.deny or tier.default in {None, "deny"}


async def test_a_denial_by_name_names_the_key_to_change() -> None:
    global_tier = PermissionSettings(deny=("read",), default="allow")
    result = await PipelineHarness(FunctionTool("read", returning("")), permissions=global_tier).call("read", {})
    assert (result.outcome, result.gate, result.rule) == ("denied", "permissions", "permissions.deny: read")
    assert 'by removing "read" from permissions.deny in walrus.toml' in result.output
