"""Reloads walrus.toml and the prompts: checks all of it, then applies it in one step.

Running turns keep the configuration with which they started; sessions, schedules and connections continue. An invalid
configuration is reported and changes nothing.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog
import trio

from walrus_config.diff import changed_keys, retain_restart_keys, split_by_restart
from walrus_config.errors import ConfigError
from walrus_config.load import NO_PROVIDER_WARNING, load
from walrus_config.schema import Config
from walrus_protocol.events import ConfigReloaded
from walrus_protocol.methods.daemon import ReloadResult
from walrus_protocol.problems import Problem
from walrusd.composition.component import Prepare, Prepared
from walrusd.host.sd_notify import Notify
from walrusd.ports import Clock
from walrusd.runtime.recording.daemon_events import DaemonRecorder

log = structlog.get_logger("walrusd")


class ActiveConfig:
    """The configuration in force, and the components that put it in force. One reload runs at a time."""

    def __init__(
        self,
        components: Sequence[Prepare],
        config: Config,
        *,
        daemon_recorder: DaemonRecorder,
        on_event: Callable[[ConfigReloaded], None],
        notify: Notify,
        clock: Clock,
        is_stopping: Callable[[], bool],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`components` commit in this order. `config` is not in force before `start`. `on_event` does not raise."""
        self.config = config
        self.warnings: tuple[str, ...] = ()
        """Warnings about the configuration in force."""
        self.last_error = ""
        """The error of the last reload; empty if it succeeded."""
        self._components = components
        self._daemon_recorder = daemon_recorder
        self._on_event = on_event
        self._notify = notify
        self._clock = clock
        self._is_stopping = is_stopping
        self._environ = environ
        self._lock = trio.Lock()
        self._requested = trio.Event()

    async def start(self) -> None:
        """Puts the first configuration in force. Raises Problem."""
        self._commit(self.config, await self._prepare(self.config))

    async def reload(self) -> ReloadResult:
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
                await self.reload()
            except Problem as problem:
                log.error("reload_failed", error=problem.message, hint=problem.hint)
            except Exception:
                log.exception("reload_failed")  # a bug in a reload must not end the daemon

    async def _reload(self) -> ReloadResult:
        before, known_warnings = self.config, self.warnings
        candidate = await self._load_candidate()
        changed, at_restart = split_by_restart(changed_keys(before, candidate))
        config = retain_restart_keys(before, candidate)
        prepared = await self._prepare(config)
        if changed or at_restart:
            event = ConfigReloaded(ts=self._clock(), changed=changed, at_restart=at_restart)
            await self._daemon_recorder.record(event)
            self._on_event(event)
        self._commit(config, prepared)
        self.warnings = (*self.warnings, *await _retire(prepared))
        for warning in self.warnings:
            if warning not in known_warnings:
                log.warning("status_warning", message=warning)
        log.info("reloaded", changed=changed, at_restart=at_restart)
        return ReloadResult(changed=changed, at_restart=at_restart, warnings=self.warnings)

    async def _prepare(self, config: Config) -> list[Prepared]:
        return [await prepare(config) for prepare in self._components]

    def _commit(self, config: Config, prepared: Sequence[Prepared]) -> None:
        """Puts all of a configuration in force without a checkpoint, so that no task sees one half of it."""
        for one in prepared:
            one.commit()
        self.config = config
        # The warning of the model providers says what to do on this machine.
        general = (warning for warning in config.warnings if NO_PROVIDER_WARNING not in warning)
        self.warnings = (*general, *(warning for one in prepared for warning in one.warnings))

    async def _load_candidate(self) -> Config:
        read = partial(load, self.config.home, environ=self._environ)
        try:
            # The thread is abandoned if the daemon stops: it only reads, and the folder may be on a slow network.
            return await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        except ConfigError as error:
            raise Problem(
                "config", str(error), "Fix it and reload again; until then the previous one stays active."
            ) from error


async def _retire(prepared: Sequence[Prepared]) -> tuple[str, ...]:
    warnings: list[str] = []
    # Shielded, because it must not be done by half. The wait is bounded: the store always answers.
    with trio.CancelScope(shield=True):
        for one in prepared:
            if one.retire:
                warnings += await one.retire()
    return tuple(warnings)
