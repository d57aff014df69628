"""walrus.toml and the prompts, read anew: checked whole, then put in force in one step between two turns.

What runs keeps what it started with; sessions, schedules and connections live on. What is wrong with a candidate is
said, and changes nothing.
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
from walrusd.runtime.errors import translate_storage_errors
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.store.contract import StorageFailed

log = structlog.get_logger("walrusd")


class ActiveConfig(Struct, frozen=True, kw_only=True):
    """What the daemon goes by at the moment; it is replaced whole."""

    config: Config
    models: Models
    warnings: tuple[str, ...]
    """What a person should know of the two."""


async def build_active_config(config: Config, models: Models) -> ActiveConfig:
    warnings = config.warnings
    if hint := await models.setup_hint():
        others = (warning for warning in warnings if NO_PROVIDER_WARNING not in warning)
        warnings = (*others, f"No model provider is configured. {hint}")
    return ActiveConfig(config=config, models=models, warnings=warnings)


class ConfigReloader:
    """One at a time; `now` is what is in force."""

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
        """`put` gives it to all who go by it, in one step; then `follow` sees to what has to be written for it, and
        raises StorageFailed where it cannot. `see` is shown the fact. Nothing else is raised.
        """
        self.active = active
        self.last_error = ""
        """Why the last reload was; empty where it was not."""
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
        """Raises Problem config, with file and line of all that is wrong, storage_* and shutting_down."""
        async with self._lock:
            if self._is_stopping():
                raise Problem("shutting_down", "walrusd is stopping", "Its next start reads the files.")
            self._notify.reloading()
            try:
                told = await self._reload()
            except Problem as problem:
                self.last_error = problem.message
                raise
            else:
                self.last_error = ""
                return told
            finally:
                if not self._is_stopping():
                    self._notify.ready()

    def request(self) -> None:
        """Have `when_asked` reload, as a HUP wants it. What comes while it does makes it do so once more."""
        self._requested.set()

    async def run(self) -> None:
        """Reload when it is asked for; what is wrong goes to the log. Until cancelled."""
        while True:
            await self._requested.wait()
            self._requested = trio.Event()
            try:
                await self()
            except Problem as problem:
                log.error("not reloaded", error=problem.message, hint=problem.hint)
            except Exception:
                log.exception("not reloaded")  # a bug in it is no reason to end what runs

    async def _reload(self) -> ReloadResult:
        before = self.active
        candidate = await self._load_candidate()
        changed, at_restart = split_by_restart(changed_keys(before.config, candidate))
        config = retain_restart_keys(before.config, candidate)
        now = await build_active_config(config, before.models.with_configuration(config.providers, config.models))
        if changed or at_restart:
            fact = ConfigReloaded(ts=self._clock(), changed=changed, at_restart=at_restart)
            with translate_storage_errors():
                await self._daemon_recorder.record(fact)
            self._on_event(fact)
        self._apply(now)
        self.active = now
        before.models.retire_unshared(now.models)
        warnings = (*now.warnings, *await self._run_after_apply(now))
        for warning in warnings:
            if warning not in before.warnings:
                log.warning(warning)
        log.info("reloaded", changed=changed, at_restart=at_restart)
        return ReloadResult(changed=changed, at_restart=at_restart, warnings=warnings)

    async def _run_after_apply(self, active: ActiveConfig) -> tuple[str, ...]:
        """What a person should know of what had to be written."""
        try:
            with trio.CancelScope(
                shield=True
            ):  # half of it would not do; the store, which answers always, owns the wait
                await self._after_apply(active)
        except StorageFailed as failure:
            return (f"Heartbeats still go by what was before: {failure}. Reload again when the store can be read.",)
        return ()

    async def _load_candidate(self) -> Config:
        read = partial(load, self.active.config.home, environ=self._environ)
        try:
            # Left to itself where the daemon stops meanwhile: it writes nothing, and a folder may be on a slow network.
            return await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        except ConfigError as error:
            raise Problem("config", str(error), "Mend it and reload again; walrusd goes on as it was.") from error
