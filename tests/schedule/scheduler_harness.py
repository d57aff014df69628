"""A test harness: a runtime with heartbeats, an in-memory log and a clock that the test controls."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC

import trio
from msgspec import Struct

from tests.fakes.clock import FakeWallClock
from walrus_config.schema import AgentSettings as AgentSettings
from walrus_config.schema import Config, HeartbeatSettings
from walrus_protocol.events import Tick
from walrusd.agent.agent import Agent
from walrusd.ports import Model
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.schedule.heartbeat import HeartbeatDeps, ReadTodo, build_heartbeats
from walrusd.schedule.heartbeat_prompt import PendingWork
from walrusd.schedule.probe import ProbeResult
from walrusd.schedule.scheduler import Scheduler
from walrusd.store.contract import Log
from walrusd.store.tables.tick import read_ticks

NAME = "heartbeat:clerk"
HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
MONDAY = 1_793_577_600.0
"""Unix seconds of 2026-11-02, 00:00 UTC."""


class SchedulerHarness(Struct):
    """A running scheduler and the objects around it."""

    runtime: Runtime
    scheduler: Scheduler
    deps: HeartbeatDeps
    log: Log

    async def reload_heartbeats(self, heartbeat_settings: Mapping[str, HeartbeatSettings]) -> None:
        """Replaces the heartbeats, as a reload does."""
        await self.scheduler.configure(build_heartbeats(config_of(heartbeat_settings), self.deps))

    async def rows(self, name: str | None = NAME) -> list[Tick]:
        """Returns the rows of the ledger, oldest first."""
        return (await self.log.read(read_ticks, name, limit=5000))[::-1]

    async def outcomes(self, name: str | None = NAME) -> list[tuple[str, str]]:
        return [(row.outcome, row.reason) for row in await self.rows(name)]


def config_of(heartbeat_settings: Mapping[str, HeartbeatSettings]) -> Config:
    agents = {
        name: AgentSettings(name=name, heartbeat=heartbeat, workspace="/tmp")
        for name, heartbeat in heartbeat_settings.items()
    }
    return Config(home="/nowhere", path="/nowhere/walrus.toml", agents=agents)


async def unexpected_probe(command: str, folder: str) -> ProbeResult:
    await trio.lowlevel.checkpoint()
    raise AssertionError(f"unexpected probe {command} in {folder}")


async def read_no_todo(_: str) -> PendingWork | None:
    await trio.lowlevel.checkpoint()
    return None


class FakeProbe:
    """A probe whose output the test sets, with a count of its calls."""

    def __init__(self, output: str = "") -> None:
        self.output = output
        self.calls = 0

    async def __call__(self, command: str, folder: str) -> ProbeResult:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        return ProbeResult(exit_status=0, output=self.output, digest=f"{command} {self.output}")


@asynccontextmanager
async def open_scheduler(
    log: Log,
    model: Model,
    clock: FakeWallClock,
    *,
    probe: Callable[[str, str], Awaitable[ProbeResult]] = unexpected_probe,
    read_todo: ReadTodo = read_no_todo,
    grace_s: float = 0,
    max_running_turns: int = 64,
    heartbeat_settings: Mapping[str, HeartbeatSettings],
) -> AsyncIterator[SchedulerHarness]:
    """Opens a scheduler with one agent for each heartbeat.

    Leaving it stops everything in the same order as walrusd does. To simulate a power cut, a test opens another log on
    the same tables: this log then cannot write any more.
    """
    async with Runtime(model, log=log, clock=clock.now, max_running_turns=max_running_turns) as runtime:
        for name in heartbeat_settings:
            runtime.add_agent(Agent(name=name, model="fake"))
        await runtime.recover()
        deps = HeartbeatDeps(runtime=runtime, run_probe=probe, read_todo=read_todo, zone=UTC)
        scheduler = Scheduler(runtime, await DaemonRecorder.open(log), clock)
        async with trio.open_nursery() as nursery:
            await nursery.start(scheduler.run_scheduler, build_heartbeats(config_of(heartbeat_settings), deps))
            yield SchedulerHarness(runtime, scheduler, deps, log)
            scheduler.stop()
            await runtime.stop(grace_s)
            await scheduler.wait_finished()
