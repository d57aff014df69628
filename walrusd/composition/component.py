"""The interface of a part of the daemon that depends on the configuration.

The start and a reload take the same steps: all components prepare, then all commit, then all retire.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from walrus_config.schema import Config


async def _retire_nothing() -> tuple[str, ...]:  # noqa: ASYNC124 - other components wait here
    return ()


class Prepared(Struct, frozen=True, kw_only=True):
    """What a component has built for a configuration. It has no effect before `commit`."""

    commit: Callable[[], None]
    """Puts it in force. Neither waits nor raises, so that no task sees one half of a configuration."""
    retire: Callable[[], Awaitable[tuple[str, ...]]] = _retire_nothing
    """Called when all components have committed. Ends what only the previous configuration used, and does what must
    be written to the store. Returns warnings; an expected failure is one of them."""
    warnings: tuple[str, ...] = ()
    """Warnings about this configuration, for `status`."""


class Component(Protocol):
    """A part of the daemon that depends on the configuration."""

    async def prepare(self, config: Config) -> Prepared:
        """Builds what the configuration asks for, and changes nothing yet. Raises Problem if that is impossible."""
