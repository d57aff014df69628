"""Tests of diff.py: exactly the changed keys are found, and no secret is shown."""

from collections.abc import Iterator, Mapping
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from walrus_config.diagnostics import format_key_path
from walrus_config.diff import AT_RESTART, changed_keys, retain_restart_keys, split_by_restart
from walrus_config.schema import (
    AgentSettings,
    Config,
    DaemonSettings,
    ModelSettings,
    PermissionSettings,
    PriceSettings,
    ProviderSettings,
    Secret,
    Section,
    StorageSettings,
    ToolSettings,
    section_types,
)
from walrus_config.schema.section import KeyMark

KEY = "sk-a-secret-of-ours"
BASE = Config(
    home="/h",
    path="/h/walrus.toml",
    providers={"deep": ProviderSettings(kind="openai", api_key=Secret(KEY), headers={"X-Key": Secret(KEY)})},
    models={"deepseek-chat": ModelSettings(price=PriceSettings())},
    agents={"walrus": AgentSettings(name="walrus")},
    tools={"read": ToolSettings()},
)
SIMPLE_VALUES: dict[type, list[object]] = {
    str: ["one", "two"],
    int: [1, 2],
    float: [1.0, 2.0],
    bool: [False, True],
    type(None): [None],
    Secret: [Secret(KEY), Secret("sk-another")],
}


def field_types(kind: type[Section]) -> dict[str, object]:
    """Returns the types of a Struct's fields without marks and bounds."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def simple_values(kind: object) -> list[object]:
    """Returns some values of a field's type that is neither a table nor a mapping."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return list(inner)
    if get_origin(kind) is tuple:
        return [(), *((value,) for value in simple_values(inner[0]))]
    if inner:
        return [value for each in inner for value in simple_values(each)]
    assert isinstance(kind, type), f"an unknown type of a field: {kind}"
    return [kind()] if issubclass(kind, Section) else SIMPLE_VALUES[kind]


def every_change(value: object, kind: object, *at: str) -> Iterator[tuple[str, object]]:
    """Iterates over each key and the value with this key alone changed."""
    if isinstance(value, Section):
        for name, hint in field_types(type(value)).items():
            if at or name not in {"home", "path", "warnings"}:
                for key, changed in every_change(getattr(value, name), hint, *at, name):
                    yield key, replace(value, **{name: changed})
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            for key, changed in every_change(entry, get_args(kind)[1], *at, name):
                yield key, {**value, name: changed}
        yield format_key_path((*at, "new")), {**value, "new": value[next(iter(value))]}
    else:
        for other in simple_values(kind):
            if other != value:
                yield format_key_path(at), other


def configs(kind: object) -> st.SearchStrategy[object]:
    """Draws any value that the schema allows, also ones that `load` would refuse."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return st.builds(kind, **{name: configs(hint) for name, hint in field_types(kind).items()})
    if get_origin(kind) is Mapping:
        return st.dictionaries(st.sampled_from(["a", "b"]), configs(get_args(kind)[1]), max_size=2)
    return st.sampled_from(simple_values(kind))


CONFIGS = st.builds(
    Config,
    home=st.just(BASE.home),
    path=st.just(BASE.path),
    **{name: configs(kind) for name, kind in field_types(Config).items() if name not in {"home", "path", "warnings"}},
)


@pytest.mark.parametrize(("key", "other"), list(every_change(BASE, Config)))
def test_every_key_that_changes_alone_is_named_alone(key: str, other: Config) -> None:
    assert changed_keys(BASE, other) == changed_keys(other, BASE) == (key,)


@pytest.mark.slow
@given(CONFIGS, CONFIGS)
def test_there_are_changes_exactly_if_two_configs_differ(one: Config, other: Config) -> None:
    assert changed_keys(one, replace(one, warnings=("a later warning",))) == ()
    assert bool(changed_keys(one, other)) == (one != other)


def test_added_and_removed_tables_are_one_key_and_changes_are_named_by_key() -> None:
    other = replace(
        BASE,
        agents={"scout": AgentSettings(name="scout", permissions=PermissionSettings(allow=("read",)))},
        models={"deepseek-chat": ModelSettings()},
        providers={**BASE.providers, "my own": ProviderSettings(kind="echo")},
    )
    assert changed_keys(BASE, other) == (
        "agents.scout",
        "agents.walrus",
        "models.deepseek-chat.price",
        'providers."my own"',
    )


def test_a_secret_is_compared_and_not_shown() -> None:
    settings = replace(BASE.providers["deep"], api_key=Secret("sk-another"), headers={"X-Key": Secret("sk-third")})
    changed = changed_keys(BASE, replace(BASE, providers={"deep": settings}))
    assert changed == ("providers.deep.api_key", "providers.deep.headers.X-Key")


def test_keys_that_are_read_at_start_wait_for_a_restart() -> None:
    daemon = DaemonSettings(socket="/s", log_level="debug", max_connections=7, shutdown_grace_s=1)
    candidate = replace(BASE, daemon=daemon, storage=StorageSettings(durability="normal", chain=True), agents={})
    assert split_by_restart(changed_keys(BASE, candidate)) == (
        ("agents.walrus", "daemon.log_level", "daemon.shutdown_grace_s"),
        ("daemon.max_connections", "daemon.socket", "storage.chain", "storage.durability"),
    )
    active = retain_restart_keys(BASE, candidate)
    assert active == replace(BASE, daemon=DaemonSettings(log_level="debug", shutdown_grace_s=1), agents={})
    assert changed_keys(active, candidate) == split_by_restart(changed_keys(BASE, candidate))[1]


@pytest.mark.slow
@given(CONFIGS, CONFIGS)
def test_the_active_config_after_a_reload_lacks_only_restart_keys(running: Config, candidate: Config) -> None:
    at_once, at_restart = split_by_restart(changed_keys(running, candidate))
    active = retain_restart_keys(running, candidate)
    assert changed_keys(running, active) == at_once
    assert changed_keys(active, candidate) == at_restart


def test_every_restart_mark_counts() -> None:
    marked = [
        field.name
        for kind in set(section_types(Config))
        for field in fields(kind)
        if KeyMark.AT_RESTART in get_args(field.type)
    ]
    assert sorted(marked) == sorted(key.partition(".")[2] for key in AT_RESTART), "marks count in top-level tables only"
    assert {"daemon.socket", "sessions.on_restart", "storage.chain"} <= set(AT_RESTART)
