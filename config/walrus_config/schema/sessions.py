"""The table [sessions]."""

from typing import Annotated, Literal

from walrus_config.schema.section import KeyMark, Section


class SessionSettings(Section, frozen=True, kw_only=True):
    unsupported_keys = ("unattended",)

    on_restart: Annotated[Literal["continue", "close"], KeyMark.AT_RESTART] = "continue"
