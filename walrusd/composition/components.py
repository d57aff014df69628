"""Every part of the daemon by name, each built once, in the order in which they need each other."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from glob import escape, glob

import structlog
import trio
from msgspec import Struct

from walrus_config.paths import home_paths
from walrus_config.schema import Config
from walrusd import __version__
from walrusd.composition.apply_config import ConfigApplier
from walrusd.composition.reload import ActiveConfig, ConfigReloader, build_active_config
from walrusd.export_import.importer import Importer
from walrusd.host.clock import SystemClock
from walrusd.host.orphan_cleanup import call_marker, kill_orphans
from walrusd.host.sd_notify import Notify, extending_timeout
from walrusd.host.socket_activation import ListeningSocket
from walrusd.host.spawner import Spawner
from walrusd.observability.metrics import Metrics
from walrusd.observability.redaction import Redaction
from walrusd.providers.registry import open_models
from walrusd.retention.clock_jump import read_last_event_time
from walrusd.retention.collector import RetentionCollector
from walrusd.runtime.runtime import Runtime
from walrusd.schedule.heartbeat import Heartbeat, HeartbeatDeps, build_heartbeats
from walrusd.schedule.probe import ProbeRunner
from walrusd.schedule.scheduler import Scheduler
from walrusd.schedule.todo_sources import TodoFile
from walrusd.store.contract import StorageFailed
from walrusd.store.database import is_empty
from walrusd.store.sqlite import SqliteLog

log = structlog.get_logger("walrusd")

STORE_CLOSE_TIMEOUT_S = 10.0
"""How long the store may take for its last writes and checkpoint."""


class StartupOptions(Struct, frozen=True, kw_only=True):
    """What a daemon is started with."""

    config: Config
    socket: str
    started_at: float
    """When the process was, on the monotonic clock."""
    redact: Redaction
    umask: int
    """The user's, for what tools start; the daemon's own files are private."""
    notify: Notify
    inherited_socket: ListeningSocket | None = None
    home_used_before: bool = False
    """A walrusd has run on this home before."""


class Components(Struct, frozen=True, kw_only=True):
    store: SqliteLog
    spawner: Spawner
    runtime: Runtime
    importer: Importer
    metrics: Metrics
    scheduler: Scheduler
    build_heartbeats: Callable[[ActiveConfig], list[Heartbeat]]
    reloader: ConfigReloader
    retention: RetentionCollector


@asynccontextmanager
async def open_components(options: StartupOptions, *, is_stopping: Callable[[], bool]) -> AsyncIterator[Components]:
    """All of it, what the last daemon left running ended; the runtime has not recovered yet.

    Only for one who holds the home. Raises StorageFailed.
    """
    config, home = options.config, home_paths(options.config.home)
    metrics = Metrics(__version__)
    async with (
        _open_store(home.database, options) as store,
        _open_spawner(store, options) as spawner,
        open_models(config.providers, config.models, spawner=spawner) as models,
        Runtime(
            models,
            log=store,
            max_running_turns=config.daemon.max_running_turns,
            on_restart=config.sessions.on_restart,
        ) as runtime,
    ):
        outfit = ConfigApplier(runtime=runtime, metrics=metrics, spawner=spawner, redact=options.redact)
        now = await build_active_config(config, models)
        outfit.apply(now)
        probes = ProbeRunner(spawner, home=config.home, redact=options.redact)
        means = HeartbeatDeps(runtime=runtime, run_probe=probes, todo_sources=(TodoFile(home.agents),))
        schedules = Scheduler(runtime, runtime.daemon_recorder, SystemClock(), metrics.on_event)

        async def follow(now: ActiveConfig) -> None:
            await schedules.configure(build_heartbeats(now.config, means))
            space.request()

        reload = ConfigReloader(
            now,
            apply=outfit.apply,
            after_apply=follow,
            daemon_recorder=runtime.daemon_recorder,
            on_event=partial(metrics.on_event, ""),
            notify=options.notify,
            clock=time.time,
            is_stopping=is_stopping,
        )
        space = RetentionCollector(
            store,
            runtime.session_cache,
            runtime.daemon_recorder,
            storage_settings=lambda: reload.active.config.storage,
            clock=time.time,
            on_event=partial(metrics.on_event, ""),
            last_run_at=await read_last_event_time(store),
        )
        yield Components(
            store=store,
            spawner=spawner,
            runtime=runtime,
            importer=Importer(
                store,
                runtime.daemon_recorder,
                runtime.agent,
                runtime.check_not_stopping,
                clock=time.time,
                on_event=metrics.on_event,
            ),
            metrics=metrics,
            scheduler=schedules,
            build_heartbeats=lambda now: build_heartbeats(now.config, means),
            reloader=reload,
            retention=space,
        )


@asynccontextmanager
async def _open_store(path: str, options: StartupOptions) -> AsyncIterator[SqliteLog]:
    keeping, empty = options.config.storage, is_empty(path)
    async with extending_timeout(options.notify):  # migrating may take its time
        store = await SqliteLog.open(path, durability=keeping.durability, chain=keeping.chain)
    if empty and (options.home_used_before or glob(f"{escape(path)}.v*.backup*")):
        log.warning(
            "made a new, empty log in a home that was in use",
            database=path,
            hint="If it was not you who took the old one away, stop walrusd and restore it: docs/backup.md says how.",
        )
    _log_chain_head(store, "start")
    try:
        yield store
    finally:
        with trio.move_on_after(STORE_CLOSE_TIMEOUT_S, shield=True):
            await store.aclose()
            _log_chain_head(store, "stop")


def _log_chain_head(store: SqliteLog, at: str) -> None:
    """Where the chain ends, for the journal, which lies elsewhere than the log: `walrusctl verify --since` takes it."""
    if store.chain_head:
        log.info("chain", head=str(store.chain_head), at=at)


@asynccontextmanager
async def _open_spawner(store: SqliteLog, options: StartupOptions) -> AsyncIterator[Spawner]:
    async with extending_timeout(options.notify):
        await kill_orphaned_tools(store, options.config.home)
    async with Spawner(options.umask) as spawner, trio.open_nursery() as nursery:
        # Before any turn goes on: what a tool leaves behind is walrusd's from the first one on.
        await nursery.start(spawner.adopt_and_reap)
        yield spawner
        nursery.cancel_scope.cancel()


async def kill_orphaned_tools(store: SqliteLog, home: str) -> None:
    """End what the daemon before this one has left running: `mend` tells what became of its calls."""
    started = []
    for number in await store.unfinished_sessions():
        try:
            outline = await store.session_state(number)
        except StorageFailed:
            continue  # its session is left alone, and the log says so, when the runtime recovers
        if outline and outline.turn:
            started += [
                (process, call_marker(number, outline.turn.number, call)) for call, process in outline.turn.processes
            ]
    if started and (ended := await trio.to_thread.run_sync(kill_orphans, started, home)):
        log.warning("survivors ended", pids=ended)
