"""The parts of the daemon that depend on the configuration.

All components prepare, then all commit; after a reload, all retire.
"""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from walrus_config.schema import Config
from walrusd.observability.logging import set_log_level
from walrusd.observability.redaction import Redaction
from walrusd.observability.secrets import collect_secrets
from walrusd.providers.registry import Models
from walrusd.schedule.heartbeat import Heartbeat, HeartbeatDeps, build_heartbeats
from walrusd.schedule.scheduler import Scheduler
from walrusd.store.errors import StorageFailed


class Prepared(Struct, frozen=True, kw_only=True):
    """What a component has built for a configuration. It has no effect before `commit`."""

    commit: Callable[[], None]
    """Puts it in force. Neither waits nor raises, so that no task sees one half of a configuration."""
    retire: Callable[[], Awaitable[tuple[str, ...]]] | None = None
    """Called when all components have committed. Ends what only the previous configuration used, and does what must
    be written to the store. Returns more warnings; an expected failure is one of them. The start calls none: there is
    no previous configuration then."""
    warnings: tuple[str, ...] = ()
    """Warnings about this configuration, for `status`."""


Prepare = Callable[[Config], Awaitable[Prepared]]
"""The interface of a component: builds what a configuration asks for, and changes nothing yet.

Raises Problem if that is impossible.
"""


async def prepare_log_settings(redact: Redaction, config: Config) -> Prepared:  # noqa: ASYNC124 - others wait here
    """Prepares the log level and the secrets that are redacted."""
    secrets = collect_secrets(config)

    def commit() -> None:
        redact.update_secrets(secrets)
        set_log_level(config.daemon.log_level)

    return Prepared(commit=commit)


class ModelProviders:
    """The models in force. A reload keeps the engines of local models whose settings are unchanged."""

    def __init__(self, models: Models) -> None:
        self.active = models

    async def prepare(self, config: Config) -> Prepared:
        before, models = self.active, self.active.with_configuration(config.providers, config.models)
        hint = await models.setup_hint()

        def commit() -> None:
            self.active = models

        async def retire() -> tuple[str, ...]:  # noqa: ASYNC124 - other components wait here
            before.retire_unshared(models)
            return ()

        warnings = (f"No model provider is configured. {hint}",) if hint else ()
        return Prepared(commit=commit, retire=retire, warnings=warnings)


class Heartbeats:
    """The heartbeats in force. The scheduler takes `jobs` when it starts, and new ones at a reload."""

    def __init__(self, scheduler: Scheduler, deps: HeartbeatDeps) -> None:
        self.jobs: list[Heartbeat] = []
        self._scheduler = scheduler
        self._deps = deps

    async def prepare(self, config: Config) -> Prepared:
        jobs = build_heartbeats(config, self._deps)

        def commit() -> None:
            self.jobs = jobs

        return Prepared(commit=commit, retire=self._configure_scheduler)

    async def _configure_scheduler(self) -> tuple[str, ...]:
        try:
            await self._scheduler.configure(self.jobs)
        except StorageFailed as failure:
            return (f"Heartbeats still use the previous settings: {failure}. Reload again when the store can be read.",)
        return ()
