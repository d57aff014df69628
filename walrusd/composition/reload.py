"""Reloads walrus.toml and the prompts: checks all of it, then applies it in one step.

Running turns keep the configuration with which they started; sessions, schedules and connections continue. An invalid
configuration is reported and changes nothing.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog
import trio
from msgspec import Struct

from walrus_config.diff import changed_keys, retain_restart_keys, split_by_restart
from walrus_config.load import NO_PROVIDER_WARNING, ConfigError, load
from walrus_config.schema import Config
from walrus_protocol.events import ConfigReloaded
from walrus_protocol.methods.daemon import ReloadResult
from walrus_protocol.problems import Problem
from walrusd.host.sd_notify import Notify
from walrusd.ports import Clock
from walrusd.providers.registry import Models
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.store.contract import StorageFailed

log = structlog.get_logger("walrusd")


class ActiveConfig(Struct, frozen=True, kw_only=True):
    """The active configuration with its models; a reload replaces it as a whole."""

    config: Config
    models: Models
    warnings: tuple[str, ...]
    """Warnings about the configuration and the models."""


async def build_active_config(config: Config, models: Models) -> ActiveConfig:
    """Joins a configuration and its models, with a warning if no model provider is configured."""
    warnings = config.warnings
    if hint := await models.setup_hint():
        others = (warning for warning in warnings if NO_PROVIDER_WARNING not in warning)
        warnings = (*others, f"No model provider is configured. {hint}")
    return ActiveConfig(config=config, models=models, warnings=warnings)


class ConfigReloader:
    """Reloads the configuration, one reload at a time. `active` is the configuration in use."""

    def __init__(
        self,
        active: ActiveConfig,
        *,
        apply: Callable[[ActiveConfig], None],
        after_apply: Callable[[ActiveConfig], Awaitable[None]],
        daemon_recorder: DaemonRecorder,
        on_event: Callable[[ConfigReloaded], None],
        notify: Notify,
        clock: Clock,
        is_stopping: Callable[[], bool],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`apply` makes a configuration active in one step, and `on_event` receives the event; neither raises.

        `after_apply` then does what must be written to the store, and raises StorageFailed if that fails.
        """
        self.active = active
        self.last_error = ""
        """The error of the last reload; empty if it succeeded."""
        self._apply = apply
        self._after_apply = after_apply
        self._daemon_recorder = daemon_recorder
        self._on_event = on_event
        self._notify = notify
        self._clock = clock
        self._is_stopping = is_stopping
        self._environ = environ
        self._lock = trio.Lock()
        self._requested = trio.Event()

    async def __call__(self) -> ReloadResult:
        """Reloads now. Raises Problem: config (with file and line of each error), storage_* or shutting_down."""
        async with self._lock:
            if self._is_stopping():
                raise Problem("shutting_down", "walrusd is stopping", "The next start reads the new configuration.")
            self._notify.reloading()
            try:
                result = await self._reload()
            except Problem as problem:
                self.last_error = problem.message
                raise
            else:
                self.last_error = ""
                return result
            finally:
                if not self._is_stopping():
                    self._notify.ready()

    def request(self) -> None:
        """Asks `run` for a reload, as a HUP does. Any number of requests during a reload cause one more."""
        self._requested.set()

    async def run(self) -> None:
        """Reloads at each request and logs errors, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested = trio.Event()
            try:
                await self()
            except Problem as problem:
                log.error("reload_failed", error=problem.message, hint=problem.hint)
            except Exception:
                log.exception("reload_failed")  # a bug in a reload must not end the daemon

    async def _reload(self) -> ReloadResult:
        before = self.active
        candidate = await self._load_candidate()
        changed, at_restart = split_by_restart(changed_keys(before.config, candidate))
        config = retain_restart_keys(before.config, candidate)
        active = await build_active_config(config, before.models.with_configuration(config.providers, config.models))
        if changed or at_restart:
            event = ConfigReloaded(ts=self._clock(), changed=changed, at_restart=at_restart)
            await self._daemon_recorder.record(event)
            self._on_event(event)
        self._apply(active)
        self.active = active
        before.models.retire_unshared(active.models)
        warnings = (*active.warnings, *await self._run_after_apply(active))
        for warning in warnings:
            if warning not in before.warnings:
                log.warning("status_warning", message=warning)
        log.info("reloaded", changed=changed, at_restart=at_restart)
        return ReloadResult(changed=changed, at_restart=at_restart, warnings=warnings)

    async def _run_after_apply(self, active: ActiveConfig) -> tuple[str, ...]:
        """Runs `after_apply`; returns a warning if it failed."""
        try:
            # Shielded, because it must not be done by half. The wait is bounded: the store always answers.
            with trio.CancelScope(shield=True):
                await self._after_apply(active)
        except StorageFailed as failure:
            return (f"Heartbeats still use the previous settings: {failure}. Reload again when the store can be read.",)
        return ()

    async def _load_candidate(self) -> Config:
        read = partial(load, self.active.config.home, environ=self._environ)
        try:
            # The thread is abandoned if the daemon stops: it only reads, and the folder may be on a slow network.
            return await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        except ConfigError as error:
            raise Problem(
                "config", str(error), "Fix it and reload again; until then the previous one stays active."
            ) from error
