"""The component of the scheduled heartbeats."""

from walrus_config.schema import Config
from walrusd.composition.component import Prepared
from walrusd.schedule.heartbeat import Heartbeat, HeartbeatDeps, build_heartbeats
from walrusd.schedule.scheduler import Scheduler
from walrusd.store.contract import StorageFailed


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
