"""The keys of walrus.toml whose feature does not exist yet.

The change that adds a feature removes its line here.

These keys are refused, not ignored: a budget or a rule that silently does nothing is worse than none.
"""

from walrus_config.toml_positions import KeyPath

_AGENT_KEYS = ("compact_threshold", "budget", "permissions.ask")

UNSUPPORTED_KEYS = (
    "providers.*.rate_limit",
    "models.*.fallback",
    *(f"defaults.{key}" for key in _AGENT_KEYS),
    *(f"agents.*.{key}" for key in _AGENT_KEYS),
    "budget",
    "permissions.ask",
    "tools.*.rate_limit",
    "tools.*.cache_ttl_s",
    "tools.*.idempotent",
    "tools.*.network",
    "mcps",
    "schedule",
    "sessions.unattended",
)

UNSUPPORTED_VALUES = {
    "providers.*.kind": ("anthropic",),
    "permissions.default": ("ask",),
    "defaults.permissions.default": ("ask",),
    "agents.*.permissions.default": ("ask",),
    "tools.*.sandbox": ("auto", "bwrap"),
}

IGNORED_KEYS = tuple(f"{table}.{key}" for table in ("defaults", "agents.*") for key in ("members", "skills", "mcps"))
"""Keys that are checked and accepted with a warning: they have no effect, and so permit nothing."""


def is_unsupported(key_path: KeyPath, value: object) -> bool:
    """Returns whether the key, or this value of it, is not available yet."""
    return any(_matches(key_path, key) for key in UNSUPPORTED_KEYS) or any(
        _matches(key_path, key) and value in values for key, values in UNSUPPORTED_VALUES.items()
    )


def is_ignored(key_path: KeyPath) -> bool:
    """Returns whether the key is accepted but has no effect yet."""
    return any(_matches(key_path, key) for key in IGNORED_KEYS)


def _matches(key_path: KeyPath, pattern: str) -> bool:
    parts = pattern.split(".")
    return len(parts) == len(key_path) and all(part in ("*", key) for part, key in zip(parts, key_path, strict=True))
