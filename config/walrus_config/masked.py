"""Converts a Config to JSON-compatible tables for display, with defaults, and with *** for secrets."""

import json

import msgspec

from walrus_config.schema import Config, Secret


def mask_secrets(config: Config) -> dict[str, object]:
    """Returns `config` as plain tables. Header values are masked too, because many contain keys."""
    # Converted through JSON, so that it equals what a client of config.get receives, with lists for tuples.
    tables: dict[str, object] = json.loads(msgspec.json.encode(config, enc_hook=_mask_secret))
    return tables


def _mask_secret(value: object) -> str:
    assert isinstance(value, Secret), f"a Config must not contain a {type(value).__name__}"
    return "***"
