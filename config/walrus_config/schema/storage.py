"""The table [storage]."""

from typing import Annotated, Literal

from msgspec import Meta

from walrus_config.schema.section import KeyMark, Positive, Section

_MIN_DB_BYTES = 1024 * 1024
"""Minimum bytes of `max_db_bytes`: a lower value is a mistake, which would delete all closed sessions."""


class StorageSettings(Section, frozen=True, kw_only=True):
    durability: Annotated[Literal["full", "normal"], KeyMark.AT_RESTART] = "full"  # set when the database is opened
    retain_closed_days: Positive | None = None
    """Days after which closed sessions are deleted; None means never."""
    max_db_bytes: Annotated[int, Meta(ge=_MIN_DB_BYTES, le=2**53 - 1)] | None = None
    """Maximum bytes of the database; None means no limit but the disk's."""
    chain: Annotated[bool, KeyMark.AT_RESTART] = False  # a part of the chain begins and ends with a start
    """Whether each event is linked to the one before it by a hash."""
