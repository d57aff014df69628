"""Every part of the daemon by name, each built once, in the order in which they need each other."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from glob import escape, glob

import structlog
import trio
from msgspec import Struct

from walrus_config.paths import paths
from walrus_config.schema import Config
from walrusd import __version__
from walrusd.host.activation import Inherited
from walrusd.host.clock import SystemClock
from walrusd.host.notify import Notify, extending
from walrusd.host.spawner import Spawner
from walrusd.host.survivors import end_survivors, mark_of
from walrusd.leaps import last_written
from walrusd.metrics import Metrics
from walrusd.outfit import Outfit
from walrusd.providers.registry import open_models
from walrusd.redaction import Redaction
from walrusd.reload import InForce, Reload, in_force_with
from walrusd.runtime.runtime import Runtime
from walrusd.schedule.heartbeat import Heartbeat, Means, heartbeats
from walrusd.schedule.pending import TodoFile
from walrusd.schedule.probe import Probes
from walrusd.schedule.schedules import Schedules
from walrusd.space import Space
from walrusd.store.database import is_empty
from walrusd.store.log import StorageFailed
from walrusd.store.sqlite import SqliteLog

log = structlog.get_logger("walrusd")

STORE_CLOSES_S = 10.0
"""How long the store may take for its last writes and checkpoint."""


class Given(Struct, frozen=True, kw_only=True):
    """What a daemon is started with."""

    config: Config
    socket: str
    started: float
    """When the process was, on the monotonic clock."""
    redact: Redaction
    umask: int
    """The user's, for what tools start; the daemon's own files are private."""
    notify: Notify
    inherited: Inherited | None = None
    used: bool = False
    """A walrusd has run on this home before."""


class Parts(Struct, frozen=True, kw_only=True):
    store: SqliteLog
    spawner: Spawner
    runtime: Runtime
    metrics: Metrics
    schedules: Schedules
    heartbeats: Callable[[InForce], list[Heartbeat]]
    reload: Reload
    space: Space


@asynccontextmanager
async def open_parts(given: Given, *, stopping: Callable[[], bool]) -> AsyncIterator[Parts]:
    """All of it, what the last daemon left running ended; the runtime has not recovered yet.

    Only for one who holds the home. Raises StorageFailed.
    """
    config, home = given.config, paths(given.config.home)
    metrics = Metrics(__version__)
    async with (
        _store(home.database, given) as store,
        _spawner(store, given) as spawner,
        open_models(config.providers, config.models, spawner=spawner) as models,
        Runtime(
            models,
            log=store,
            max_running_turns=config.daemon.max_running_turns,
            on_restart=config.sessions.on_restart,
        ) as runtime,
    ):
        outfit = Outfit(runtime=runtime, metrics=metrics, spawner=spawner, redact=given.redact)
        now = await in_force_with(config, models)
        outfit.put(now)
        probes = Probes(spawner, home=config.home, redact=given.redact)
        means = Means(runtime=runtime, probe=probes, sources=(TodoFile(home.agents),))
        schedules = Schedules(runtime, runtime.facts, SystemClock(), metrics.on_event)

        async def follow(now: InForce) -> None:
            await schedules.configure(heartbeats(now.config, means))
            space.look()

        reload = Reload(
            now,
            put=outfit.put,
            follow=follow,
            facts=runtime.facts,
            see=partial(metrics.on_event, ""),
            notify=given.notify,
            clock=time.time,
            stopping=stopping,
        )
        space = Space(
            store,
            runtime.sessions_in_memory,
            runtime.facts,
            storage=lambda: reload.now.config.storage,
            clock=time.time,
            see=partial(metrics.on_event, ""),
            last=await last_written(store),
        )
        yield Parts(
            store=store,
            spawner=spawner,
            runtime=runtime,
            metrics=metrics,
            schedules=schedules,
            heartbeats=lambda now: heartbeats(now.config, means),
            reload=reload,
            space=space,
        )


@asynccontextmanager
async def _store(path: str, given: Given) -> AsyncIterator[SqliteLog]:
    keeping, empty = given.config.storage, is_empty(path)
    async with extending(given.notify):  # migrating may take its time
        store = await SqliteLog.open(path, durability=keeping.durability, chain=keeping.chain)
    if empty and (given.used or glob(f"{escape(path)}.v*.backup*")):
        log.warning(
            "made a new, empty log in a home that was in use",
            database=path,
            hint="If it was not you who took the old one away, stop walrusd and restore it: docs/backup.md says how.",
        )
    _tell_head(store, "start")
    try:
        yield store
    finally:
        with trio.move_on_after(STORE_CLOSES_S, shield=True):
            await store.aclose()
            _tell_head(store, "stop")


def _tell_head(store: SqliteLog, at: str) -> None:
    """Where the chain ends, for the journal, which lies elsewhere than the log: `walrusctl verify --since` takes it."""
    if store.head:
        log.info("chain", head=str(store.head), at=at)


@asynccontextmanager
async def _spawner(store: SqliteLog, given: Given) -> AsyncIterator[Spawner]:
    async with extending(given.notify):
        await end_left_running(store, given.config.home)
    async with Spawner(given.umask) as spawner, trio.open_nursery() as nursery:
        # Before any turn goes on: what a tool leaves behind is walrusd's from the first one on.
        await nursery.start(spawner.reap)
        yield spawner
        nursery.cancel_scope.cancel()


async def end_left_running(store: SqliteLog, home: str) -> None:
    """End what the daemon before this one has left running: `mend` tells what became of its calls."""
    started = []
    for number in await store.unfinished():
        try:
            outline = await store.outline(number)
        except StorageFailed:
            continue  # its session is left alone, and the log says so, when the runtime recovers
        if outline and outline.turn:
            started += [
                (process, mark_of(number, outline.turn.number, call)) for call, process in outline.turn.processes
            ]
    if started and (ended := await trio.to_thread.run_sync(end_survivors, started, home)):
        log.warning("survivors ended", pids=ended)
