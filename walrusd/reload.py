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

from walrus_config.diff import changes, split, without_restart
from walrus_config.load import NO_PROVIDER, ConfigError, load
from walrus_config.schema import Config
from walrus_protocol.events import ConfigReloaded
from walrus_protocol.housekeeping import Reloaded
from walrus_protocol.problems import Problem
from walrusd.host.notify import Notify
from walrusd.ports import Clock
from walrusd.providers.registry import Models
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.told import storage_told
from walrusd.store.log import StorageFailed

log = structlog.get_logger("walrusd")


class InForce(Struct, frozen=True, kw_only=True):
    """What the daemon goes by at the moment; it is replaced whole."""

    config: Config
    models: Models
    warnings: tuple[str, ...]
    """What a person should know of the two."""


async def in_force_with(config: Config, models: Models) -> InForce:
    warnings = config.warnings
    if hint := await models.hint():
        others = (warning for warning in warnings if NO_PROVIDER not in warning)
        warnings = (*others, f"No model provider is configured. {hint}")
    return InForce(config=config, models=models, warnings=warnings)


class Reload:
    """One at a time; `now` is what is in force."""

    def __init__(
        self,
        now: InForce,
        *,
        put: Callable[[InForce], None],
        follow: Callable[[InForce], Awaitable[None]],
        facts: DaemonFacts,
        see: Callable[[ConfigReloaded], None],
        notify: Notify,
        clock: Clock,
        stopping: Callable[[], bool],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`put` gives it to all who go by it, in one step; then `follow` sees to what has to be written for it, and
        raises StorageFailed where it cannot. `see` is shown the fact. Nothing else is raised.
        """
        self.now = now
        self.refused = ""
        """Why the last reload was; empty where it was not."""
        self._put = put
        self._follow = follow
        self._facts = facts
        self._see = see
        self._notify = notify
        self._clock = clock
        self._stopping = stopping
        self._environ = environ
        self._door = trio.Lock()
        self._asked = trio.Event()

    async def __call__(self) -> Reloaded:
        """Raises Problem config, with file and line of all that is wrong, storage_* and shutting_down."""
        async with self._door:
            if self._stopping():
                raise Problem("shutting_down", "walrusd is stopping", "Its next start reads the files.")
            self._notify.reloading()
            try:
                told = await self._reload()
            except Problem as problem:
                self.refused = problem.message
                raise
            else:
                self.refused = ""
                return told
            finally:
                if not self._stopping():
                    self._notify.ready()

    def ask(self) -> None:
        """Have `when_asked` reload, as a HUP wants it. What comes while it does makes it do so once more."""
        self._asked.set()

    async def when_asked(self) -> None:
        """Reload when it is asked for; what is wrong goes to the log. Until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            try:
                await self()
            except Problem as problem:
                log.error("not reloaded", error=problem.message, hint=problem.hint)
            except Exception:
                log.exception("not reloaded")  # a bug in it is no reason to end what runs

    async def _reload(self) -> Reloaded:
        before = self.now
        candidate = await self._candidate()
        changed, at_restart = split(changes(before.config, candidate))
        config = without_restart(before.config, candidate)
        now = await in_force_with(config, before.models.reloaded(config.providers, config.models))
        if changed or at_restart:
            fact = ConfigReloaded(ts=self._clock(), changed=changed, at_restart=at_restart)
            with storage_told():
                await self._facts.record(fact)
            self._see(fact)
        self._put(now)
        self.now = now
        before.models.give_way_to(now.models)
        warnings = (*now.warnings, *await self._followed(now))
        for warning in warnings:
            if warning not in before.warnings:
                log.warning(warning)
        log.info("reloaded", changed=changed, at_restart=at_restart)
        return Reloaded(changed=changed, at_restart=at_restart, warnings=warnings)

    async def _followed(self, now: InForce) -> tuple[str, ...]:
        """What a person should know of what had to be written."""
        try:
            with trio.CancelScope(
                shield=True
            ):  # half of it would not do; the store, which answers always, owns the wait
                await self._follow(now)
        except StorageFailed as failure:
            return (f"Heartbeats still go by what was before: {failure}. Reload again when the store can be read.",)
        return ()

    async def _candidate(self) -> Config:
        read = partial(load, self.now.config.home, environ=self._environ)
        try:
            # Left to itself where the daemon stops meanwhile: it writes nothing, and a folder may be on a slow network.
            return await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        except ConfigError as error:
            raise Problem("config", str(error), "Mend it and reload again; walrusd goes on as it was.") from error
