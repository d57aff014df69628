"""A runtime with its heartbeats, on a disk in memory and a clock in the test's hand."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC

import trio
from msgspec import Struct

from tests.fakes.clock import FakeWallClock
from walrus_config.schema import Agent as AgentSettings
from walrus_config.schema import Config, Heartbeat
from walrus_protocol.events import Tick
from walrusd.agent.agent import Agent
from walrusd.ports import Model
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.runtime import Runtime
from walrusd.schedule.heartbeat import Means, heartbeats
from walrusd.schedule.pending import Source
from walrusd.schedule.probe import Probed
from walrusd.schedule.schedules import Schedules
from walrusd.store.log import Log

NAME = "heartbeat:clerk"
HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
MONDAY = 1_793_577_600.0
"""2026-11-02, midnight in Greenwich."""


class House(Struct):
    runtime: Runtime
    schedules: Schedules
    means: Means
    log: Log

    async def set(self, beats: Mapping[str, Heartbeat]) -> None:
        """Reload with other heartbeats."""
        await self.schedules.configure(heartbeats(config_of(beats), self.means))

    async def rows(self, name: str | None = NAME) -> list[Tick]:
        """The ledger, oldest first."""
        return (await self.log.ticks(name, limit=5000))[::-1]

    async def told(self, name: str | None = NAME) -> list[tuple[str, str]]:
        return [(row.outcome, row.reason) for row in await self.rows(name)]


def config_of(beats: Mapping[str, Heartbeat]) -> Config:
    agents = {name: AgentSettings(name=name, heartbeat=beat, workspace="/tmp") for name, beat in beats.items()}
    return Config(home="/nowhere", path="/nowhere/walrus.toml", agents=agents)


async def no_probe(command: str, folder: str) -> Probed:
    await trio.lowlevel.checkpoint()
    raise AssertionError(f"nobody said what {command} says in {folder}")


class Probe:
    """Says what the test wants it to; `asked` counts."""

    def __init__(self, says: str = "") -> None:
        self.says = says
        self.asked = 0

    async def __call__(self, command: str, folder: str) -> Probed:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return Probed(status=0, said=self.says, digest=f"{command} {self.says}")


@asynccontextmanager
async def open_house(
    log: Log,
    model: Model,
    clock: FakeWallClock,
    *,
    probe: Callable[[str, str], Awaitable[Probed]] = no_probe,
    sources: tuple[Source, ...] = (),
    grace_s: float = 0,
    max_running_turns: int = 64,
    beats: Mapping[str, Heartbeat],
) -> AsyncIterator[House]:
    """Agents by the names of their heartbeats. Leaving stops the house as walrusd does it; a log whose disk was
    taken over by another cannot write any more, which is a power cut."""
    async with Runtime(model, log=log, clock=clock.now, max_running_turns=max_running_turns) as runtime:
        for name in beats:
            runtime.add_agent(Agent(name=name, model="fake"))
        await runtime.recover()
        means = Means(runtime=runtime, probe=probe, sources=sources, zone=UTC)
        schedules = Schedules(runtime, await DaemonFacts.open(log), clock)
        async with trio.open_nursery() as nursery:
            await nursery.start(schedules.keep_time, heartbeats(config_of(beats), means))
            yield House(runtime, schedules, means, log)
            schedules.stop()
            await runtime.stop(grace_s)
            await schedules.ended()
