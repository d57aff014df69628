"""A Config to show: JSON-ready, defaults and all, with stars for secrets."""

import json

import msgspec

from walrus_config.schema import Config, Secret


def mask_secrets(config: Config) -> dict[str, object]:
    """`config` as plain tables. Header values are secrets too: many a key travels in one."""
    # By way of JSON, so that it is what a client of config.get sees, lists for tuples too.
    tables: dict[str, object] = json.loads(msgspec.json.encode(config, enc_hook=_mask_secret))
    return tables


def _mask_secret(value: object) -> str:
    assert isinstance(value, Secret), f"{type(value).__name__} has no place in a Config"
    return "***"
