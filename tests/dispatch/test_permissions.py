"""Which rule decides, for every combination of tiers."""

from hypothesis import given
from hypothesis import strategies as st

from tests.dispatch.doubles import Counter, Doing, saying
from walrus_config.schema import Agent, Permissions
from walrusd.dispatch.gate import Rules
from walrusd.dispatch.permissions import Verdict, verdict

tiers = st.builds(
    Permissions,
    allow=st.sampled_from([(), ("read",), ("write",), ("write", "read")]),
    deny=st.sampled_from([(), ("read",), ("write",)]),
    default=st.sampled_from([None, "allow", "deny"]),
)


def judge(everyone: Permissions, own: Permissions | None) -> Verdict:
    agents = {} if own is None else {"ann": Agent(name="ann", permissions=own)}
    return verdict(Rules(tools={}, agents=agents, permissions=everyone), "ann", "read")


def told(allowed: bool, key: str, what: str = "read") -> Verdict:
    return Verdict(allowed=allowed, key=key, rule=f"{key}: {what}")


def test_nothing_said_is_denied() -> None:
    assert judge(Permissions(), None) == told(False, "permissions.default", "deny")
    assert judge(Permissions(), Permissions()) == told(False, "permissions.default", "deny")


def test_the_nearest_tier_that_names_the_tool_decides() -> None:
    deny, allow = Permissions(deny=("read",)), Permissions(allow=("read",))
    assert judge(deny, allow) == told(True, "agents.ann.permissions.allow")
    assert judge(allow, deny) == told(False, "agents.ann.permissions.deny")
    assert judge(allow, Permissions(default="deny")) == told(True, "permissions.allow")
    assert judge(deny, Permissions(default="allow")) == told(False, "permissions.deny")


def test_inside_a_tier_deny_beats_allow() -> None:
    both = Permissions(allow=("read",), deny=("read",))
    assert judge(both, None) == told(False, "permissions.deny")
    assert judge(Permissions(allow=("read",)), both) == told(False, "agents.ann.permissions.deny")


def test_the_nearest_default_decides_what_no_tier_names() -> None:
    assert judge(Permissions(default="deny"), Permissions(default="allow")) == told(
        True, "agents.ann.permissions.default", "allow"
    )
    assert judge(Permissions(default="allow"), Permissions()) == told(True, "permissions.default", "allow")


@given(tiers, tiers)
def test_what_is_allowed_was_allowed_by_a_line_that_is_there(everyone: Permissions, own: Permissions) -> None:
    found = judge(everyone, own)
    tier = own if found.key.startswith("agents.ann.") else everyone
    if found.allowed:
        assert found.rule.endswith(("allow: read", "default: allow"))
        assert "read" in tier.allow or tier.default == "allow"
        assert "read" not in own.deny
    else:
        assert "read" in tier.deny or tier.default in {None, "deny"}


async def test_who_is_denied_by_name_is_told_which_line_to_change() -> None:
    everyone = Permissions(deny=("read",), default="allow")
    result = await Counter(Doing("read", saying("")), permissions=everyone).call("read", {})
    assert (result.outcome, result.gate, result.rule) == ("denied", "permissions", "permissions.deny: read")
    assert 'who takes "read" out of permissions.deny in walrus.toml does' in result.output
