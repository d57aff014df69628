"""Tests of when the collector runs by itself: once an hour, and again after a failure."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from tests.fakes.clock import FakeWallClock
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import FakeModel
from tests.fakes.stores import commit, write
from walrus_config.schema import StorageSettings
from walrus_protocol.events import SessionsExpired
from walrusd.agent.agent import Agent
from walrusd.retention.collector import HOUR_S, RetentionCollector
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.store.errors import StorageFailed
from walrusd.store.retention_contract import SweepStats
from walrusd.store.tables.output import AddOutput, StoredOutput

NOON = 1_793_620_800.0
MB = 1_000_000


def make_idle_collector(runtime: Runtime, recorder: DaemonRecorder) -> RetentionCollector:
    """Returns a collector without limits."""
    log, cache = runtime.log, runtime.session_cache
    return RetentionCollector(
        log, cache, recorder, storage_settings=StorageSettings, clock=time.time, on_event=lambda _: None
    )


class SweepCountingLog(MemoryLog):
    """A log that records when it is swept, in hours since its creation."""

    def __init__(self) -> None:
        super().__init__()
        self.sweep_hours: list[float] = []
        self._created = trio.current_time()

    async def sweep(self) -> SweepStats:
        self.sweep_hours.append(round((trio.current_time() - self._created) / HOUR_S, 1))
        return await super().sweep()


@asynccontextmanager
async def running_collector() -> AsyncIterator[SweepCountingLog]:
    """Runs a collector without limits over a new log, until the block ends."""
    log = SweepCountingLog()
    async with Runtime(FakeModel(), log=log) as runtime, trio.open_nursery() as nursery:
        collector = make_idle_collector(runtime, await DaemonRecorder.open(log))
        nursery.start_soon(collector.run)
        yield log
        nursery.cancel_scope.cancel()


async def test_without_writes_collection_runs_once_an_hour(autojump_clock: MockClock) -> None:
    async with running_collector() as log:
        await trio.sleep(3.5 * HOUR_S)
    assert log.sweep_hours == [0, 1, 2, 3]


async def test_a_sweep_runs_once_an_hour_however_much_is_written(autojump_clock: MockClock) -> None:
    async with running_collector() as log:
        for number in range(17):
            await trio.sleep(HOUR_S / 8)
            output = StoredOutput(ref=str(number), body=b"x" * 5 * MB)
            await commit(log, write(session=9, mutations=[AddOutput(output)]))
    assert [log.sweep_hours[0], len(log.sweep_hours)] == [0, 3]


async def test_after_a_storage_failure_the_next_collection_runs(autojump_clock: MockClock) -> None:
    class Failing(MemoryLog):
        failures = 0

        async def sweep(self) -> SweepStats:
            if not self.failures:
                self.failures += 1
                raise StorageFailed("the disk has failed")
            return await super().sweep()

    log = Failing()
    clock = FakeWallClock(NOON)
    async with Runtime(FakeModel(), log=log, clock=clock.now) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.close_session(session)
        storage = StorageSettings(retain_closed_days=0.01)
        recorder, cache = await DaemonRecorder.open(log), runtime.session_cache
        events: list[SessionsExpired] = []
        collector = RetentionCollector(
            log, cache, recorder, storage_settings=lambda: storage, clock=clock.now, on_event=events.append
        )
        with trio.move_on_after(1.5 * HOUR_S):
            await collector.run()
    assert log.failures == 1
    assert [event.sessions for event in events] == [(session,)]
