"""Two Configs → what has changed, as keys of walrus.toml, and which of that can be in force without a new start.

Pure. Secrets are compared and never shown: a change is a key, not a value.
"""

from collections.abc import Iterator, Mapping

from msgspec.structs import fields, replace

from walrus_config.diagnostics import format_key_path
from walrus_config.schema import Config, Section
from walrus_config.toml_positions import KeyPath

AT_RESTART = (
    "daemon.socket",  # whoever waits at the old one would never know
    "daemon.log_format",  # one file, one format
    "daemon.max_connections",
    "daemon.max_running_turns",
    "sessions.on_restart",
    "storage.durability",  # of a database that is open
    "storage.chain",  # as durability; a stretch of it begins and ends with a start
)
"""The keys that are read once, at the start. Every other is in force as soon as it is reloaded."""
_COMPUTED_FIELDS = frozenset({"home", "path", "warnings"})


def changed_keys(before: Config, after: Config) -> tuple[str, ...]:
    """The keys that differ. What is new or gone is named as a whole: `agents.scout`, `providers.deepseek`.

    An agent's `system_prompt` stands for its prompt file.
    """
    return tuple(sorted(map(format_key_path, _changed_paths(before, after, ()))))


def split_by_restart(changed: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of `changes` that take effect at once, and those that do at the next start."""
    at_once = tuple(key for key in changed if key not in AT_RESTART)
    return at_once, tuple(key for key in changed if key in AT_RESTART)


def retain_restart_keys(running: Config, candidate: Config) -> Config:
    """The candidate as a process that has started with `running` can have it."""
    kept: dict[str, dict[str, object]] = {}
    for key in AT_RESTART:
        table, _, name = key.partition(".")
        kept.setdefault(table, {})[name] = getattr(getattr(running, table), name)
    return replace(candidate, **{table: replace(getattr(candidate, table), **values) for table, values in kept.items()})


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
