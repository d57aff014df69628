"""What has changed between two configurations: every key is seen, none is invented, no secret is shown."""

from collections.abc import Iterator, Mapping
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from walrus_config.diff import AT_RESTART, changes, split, without_restart
from walrus_config.notes import dotted
from walrus_config.schema import (
    Agent,
    Config,
    Daemon,
    ModelSettings,
    Permissions,
    Price,
    Provider,
    Secret,
    Section,
    Storage,
    Tool,
)

KEY = "sk-a-secret-of-ours"
BASE = Config(
    home="/h",
    path="/h/walrus.toml",
    providers={"deep": Provider(kind="openai", api_key=Secret(KEY), headers={"X-Key": Secret(KEY)})},
    models={"deepseek-chat": ModelSettings(price=Price())},
    agents={"walrus": Agent(name="walrus")},
    tools={"read": Tool()},
)
SIMPLE: dict[type, list[object]] = {
    str: ["one", "two"],
    int: [1, 2],
    float: [1.0, 2.0],
    bool: [False, True],
    type(None): [None],
    Secret: [Secret(KEY), Secret("sk-another")],
}


def simple(kind: object) -> list[object]:
    """Some values of a field that is one value."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return list(inner)
    if get_origin(kind) is tuple:
        return [(), *((value,) for value in simple(inner[0]))]
    if inner:
        return [value for one in inner for value in simple(one)]
    assert isinstance(kind, type), f"a new kind of field: {kind}"
    return [kind()] if issubclass(kind, Section) else SIMPLE[kind]


def every_change(value: object, kind: object, *at: str) -> Iterator[tuple[str, object]]:
    """The value with each of its keys changed alone, and that key."""
    if isinstance(value, Section):
        for name, hint in get_type_hints(type(value)).items():
            if at or name not in {"home", "path", "warnings"}:
                for key, changed in every_change(getattr(value, name), hint, *at, name):
                    yield key, replace(value, **{name: changed})
    elif isinstance(value, Mapping):
        for name, one in value.items():
            for key, changed in every_change(one, get_args(kind)[1], *at, name):
                yield key, {**value, name: changed}
        yield dotted((*at, "new")), {**value, "new": value[next(iter(value))]}
    else:
        for other in simple(kind):
            if other != value:
                yield dotted(at), other


def configs(kind: object) -> st.SearchStrategy[object]:
    """Whatever the schema has room for; whether `load` would let it pass is not asked here."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return st.builds(kind, **{name: configs(hint) for name, hint in get_type_hints(kind).items()})
    if get_origin(kind) is Mapping:
        return st.dictionaries(st.sampled_from(["a", "b"]), configs(get_args(kind)[1]), max_size=2)
    return st.sampled_from(simple(kind))


CONFIGS = st.builds(
    Config,
    home=st.just(BASE.home),
    path=st.just(BASE.path),
    **{
        name: configs(kind) for name, kind in get_type_hints(Config).items() if name not in {"home", "path", "warnings"}
    },
)


@pytest.mark.parametrize(("key", "other"), list(every_change(BASE, Config)))
def test_every_key_that_changes_alone_is_named_alone(key: str, other: Config) -> None:
    assert changes(BASE, other) == changes(other, BASE) == (key,)


@given(CONFIGS, CONFIGS)
def test_there_are_changes_exactly_where_two_are_not_equal(one: Config, other: Config) -> None:
    assert changes(one, replace(one, warnings=("noticed later",))) == ()
    assert bool(changes(one, other)) == (one != other)


def test_what_is_new_or_gone_is_named_as_a_whole_and_a_change_by_its_key() -> None:
    other = replace(
        BASE,
        agents={"scout": Agent(name="scout", permissions=Permissions(allow=("read",)))},
        models={"deepseek-chat": ModelSettings()},
        providers={**BASE.providers, "my own": Provider(kind="echo")},
    )
    assert changes(BASE, other) == (
        "agents.scout",
        "agents.walrus",
        "models.deepseek-chat.price",
        'providers."my own"',
    )


def test_a_secret_is_compared_and_not_shown() -> None:
    settings = replace(BASE.providers["deep"], api_key=Secret("sk-another"), headers={"X-Key": Secret("sk-third")})
    named = changes(BASE, replace(BASE, providers={"deep": settings}))
    assert named == ("providers.deep.api_key", "providers.deep.headers.X-Key")


def test_what_is_read_at_the_start_waits_for_the_next_one() -> None:
    daemon = Daemon(socket="/s", log_level="debug", max_connections=7, shutdown_grace_s=1)
    candidate = replace(BASE, daemon=daemon, storage=Storage(durability="normal", chain=True), agents={})
    assert split(changes(BASE, candidate)) == (
        ("agents.walrus", "daemon.log_level", "daemon.shutdown_grace_s"),
        ("daemon.max_connections", "daemon.socket", "storage.chain", "storage.durability"),
    )
    now = without_restart(BASE, candidate)
    assert now == replace(BASE, daemon=Daemon(log_level="debug", shutdown_grace_s=1), agents={})
    assert changes(now, candidate) == split(changes(BASE, candidate))[1]


@given(CONFIGS, CONFIGS)
def test_what_is_in_force_after_a_reload_lacks_only_what_waits(running: Config, candidate: Config) -> None:
    at_once, at_restart = split(changes(running, candidate))
    now = without_restart(running, candidate)
    assert changes(running, now) == at_once
    assert changes(now, candidate) == at_restart


def test_the_keys_that_wait_are_keys() -> None:
    for key in AT_RESTART:
        table, _, name = key.partition(".")
        assert hasattr(getattr(BASE, table), name)
