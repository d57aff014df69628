"""The keys of walrus.toml whose feature is still to be built. Who builds one takes its line away.

They are refused, not ignored: a budget or a rule that silently does nothing is worse than none.
"""

from walrus_config.lines import KeyPath

_OF_AN_AGENT = ("compact_threshold", "budget", "permissions.ask")

KEYS = (
    "providers.*.rate_limit",
    "models.*.fallback",
    *(f"defaults.{key}" for key in _OF_AN_AGENT),
    *(f"agents.*.{key}" for key in _OF_AN_AGENT),
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

VALUES = {
    "providers.*.kind": ("anthropic",),
    "permissions.default": ("ask",),
    "defaults.permissions.default": ("ask",),
    "agents.*.permissions.default": ("ask",),
    "tools.*.sandbox": ("auto", "bwrap"),
}

TAKEN = tuple(f"{table}.{key}" for table in ("defaults", "agents.*") for key in ("members", "skills", "mcps"))
"""Read and checked, with a warning: nothing is permitted by them that would not be permitted without."""


def refused(path: KeyPath, value: object) -> bool:
    """Whether the key, or this value of it, is not available yet."""
    return any(_is(path, key) for key in KEYS) or any(
        _is(path, key) and value in values for key, values in VALUES.items()
    )


def ignored(path: KeyPath) -> bool:
    """Whether the key is taken, and does nothing yet."""
    return any(_is(path, key) for key in TAKEN)


def _is(path: KeyPath, pattern: str) -> bool:
    parts = pattern.split(".")
    return len(parts) == len(path) and all(part in ("*", key) for part, key in zip(parts, path, strict=True))
