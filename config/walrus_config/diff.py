"""Compares two Configs: the changed keys of walrus.toml, and those that need a restart.

Pure functions. Secrets are compared and never shown: a change is a key, not a value.
"""

from collections.abc import Iterator, Mapping
from typing import get_args

from msgspec.structs import fields, replace

from walrus_config.diagnostics import format_key_path
from walrus_config.schema import Config, Section
from walrus_config.schema.section import KeyMark
from walrus_config.toml_positions import KeyPath

AT_RESTART = tuple(
    f"{table.name}.{key.name}"
    for table in fields(Config)
    if isinstance(table.type, type) and issubclass(table.type, Section)
    for key in fields(table.type)
    if KeyMark.AT_RESTART in get_args(key.type)
)
"""The keys that are read only at the start. All others take effect at a reload."""
_COMPUTED_FIELDS = frozenset({"home", "path", "warnings"})


def changed_keys(before: Config, after: Config) -> tuple[str, ...]:
    """Returns the keys that differ.

    A new or removed table is one key: `agents.scout`, `providers.deepseek`.

    A change of a prompt file is reported as the agent's key `system_prompt`.
    """
    return tuple(sorted(map(format_key_path, _changed_paths(before, after, ()))))


def split_by_restart(changed: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the keys that take effect at once, and the keys that take effect at the next start."""
    at_once = tuple(key for key in changed if key not in AT_RESTART)
    return at_once, tuple(key for key in changed if key in AT_RESTART)


def retain_restart_keys(running: Config, candidate: Config) -> Config:
    """Returns the candidate, but with the running Config's values of the keys that need a restart."""
    retained: dict[str, dict[str, object]] = {}
    for key in AT_RESTART:
        table, _, name = key.partition(".")
        retained.setdefault(table, {})[name] = getattr(getattr(running, table), name)
    tables = {table: replace(getattr(candidate, table), **values) for table, values in retained.items()}
    return replace(candidate, **tables)


def _changed_paths(before: object, after: object, key_path: KeyPath) -> Iterator[KeyPath]:
    match before, after:
        case (Section(), Section()):
            for field in fields(before):
                if key_path or field.name not in _COMPUTED_FIELDS:
                    yield from _changed_paths(
                        getattr(before, field.name), getattr(after, field.name), (*key_path, field.name)
                    )
        case (Mapping(), Mapping()):
            for name in before.keys() | after.keys():
                if name in before and name in after:
                    yield from _changed_paths(before[name], after[name], (*key_path, name))
                else:
                    yield (*key_path, name)
        case _ if before != after:
            yield key_path
