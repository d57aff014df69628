"""Builds the components of the daemon, each once, in the order of their dependencies."""

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
from walrusd.composition.agents import Agents
from walrusd.composition.component import Heartbeats, ModelProviders, Prepared, prepare_log_settings
from walrusd.composition.reload import ActiveConfig
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
from walrusd.schedule.heartbeat import HeartbeatDeps
from walrusd.schedule.probe import run_probe
from walrusd.schedule.scheduler import Scheduler
from walrusd.schedule.todo_file import read_todo_file
from walrusd.store.database import is_empty
from walrusd.store.errors import UnreadableRow
from walrusd.store.sqlite import SqliteLog
from walrusd.store.tables.session import read_unfinished_sessions

log = structlog.get_logger("walrusd")


class StartupOptions(Struct, frozen=True, kw_only=True):
    """The configuration, the paths and the settings of the process with which a daemon is started."""

    config: Config
    socket: str
    started_at: float
    """Start of the process, in seconds of the monotonic clock."""
    redact: Redaction
    umask: int
    """The user's umask, for the processes that tools start; the daemon's own files are private."""
    notify: Notify
    inherited_socket: ListeningSocket | None = None
    home_used_before: bool = False
    """Whether a walrusd has run on this home before."""


class Components(Struct, frozen=True, kw_only=True):
    """The components of a running daemon."""

    store: SqliteLog
    spawner: Spawner
    runtime: Runtime
    importer: Importer
    metrics: Metrics
    scheduler: Scheduler
    heartbeats: Heartbeats
    retention: RetentionCollector
    models: ModelProviders
    active: ActiveConfig


@asynccontextmanager
async def open_components(options: StartupOptions, *, is_stopping: Callable[[], bool]) -> AsyncIterator[Components]:
    """Opens all components, and kills what the previous daemon left running.

    The runtime has not recovered yet. The caller must hold the lock of the home. Raises StorageFailed.
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
            redact=options.redact,
        ) as runtime,
    ):
        recorder = runtime.daemon_recorder
        providers = ModelProviders(models)
        scheduler = Scheduler(runtime, recorder, SystemClock(), metrics.on_event)
        heartbeats = Heartbeats(
            scheduler,
            HeartbeatDeps(
                runtime=runtime,
                run_probe=partial(run_probe, spawner, config.home, options.redact),
                read_todo=partial(read_todo_file, home.agents),
            ),
        )
        retention = RetentionCollector(
            store,
            runtime.session_cache,
            recorder,
            storage_settings=lambda: active.config.storage,
            clock=time.time,
            on_event=partial(metrics.on_event, ""),
            last_run_at=await read_last_event_time(store),
        )
        agents = Agents(runtime=runtime, models=providers, metrics=metrics, spawner=spawner, redact=options.redact)

        async def prepare_retention(_: Config) -> Prepared:  # noqa: ASYNC124 - other components wait here
            # It reads the limits from the configuration in force, and looks at new ones at once.
            return Prepared(commit=retention.request)

        active = ActiveConfig(
            (
                partial(prepare_log_settings, options.redact),
                providers.prepare,
                agents.prepare,
                heartbeats.prepare,
                prepare_retention,
            ),
            config,
            daemon_recorder=recorder,
            on_event=partial(metrics.on_event, ""),
            notify=options.notify,
            clock=time.time,
            is_stopping=is_stopping,
        )
        await active.start()
        importer = Importer(
            store, recorder, runtime.agent, runtime.check_not_stopping, clock=time.time, on_event=metrics.on_event
        )
        yield Components(
            store=store,
            spawner=spawner,
            runtime=runtime,
            importer=importer,
            metrics=metrics,
            scheduler=scheduler,
            heartbeats=heartbeats,
            retention=retention,
            models=providers,
            active=active,
        )


@asynccontextmanager
async def _open_store(path: str, options: StartupOptions) -> AsyncIterator[SqliteLog]:
    storage, empty = options.config.storage, is_empty(path)
    async with extending_timeout(options.notify):  # a migration may take minutes
        store = await SqliteLog.open(path, durability=storage.durability, chain=storage.chain)
    if empty and (options.home_used_before or glob(f"{escape(path)}.v*.backup*")):
        log.warning(
            "empty_database_in_used_home",
            database=path,
            hint="If you did not remove the old database yourself, stop walrusd and restore it: see docs/backup.md.",
        )
    _log_chain_head(store, "start")
    try:
        yield store
    finally:
        await store.aclose()  # noqa: ASYNC102 - it is shielded and has its own timeout
        _log_chain_head(store, "stop")


def _log_chain_head(store: SqliteLog, at: str) -> None:
    """Logs the head of the hash chain for `walrusctl verify --since`.

    The journal of the log is stored apart from the database.
    """
    if store.chain_head:
        log.info("chain", head=str(store.chain_head), at=at)


@asynccontextmanager
async def _open_spawner(store: SqliteLog, options: StartupOptions) -> AsyncIterator[Spawner]:
    async with extending_timeout(options.notify):
        await kill_orphaned_tools(store, options.config.home)
    async with Spawner(options.umask) as spawner, trio.open_nursery() as nursery:
        # Before any turn resumes, so that the orphans of the very first tool are adopted.
        await nursery.start(spawner.adopt_and_reap)
        yield spawner
        nursery.cancel_scope.cancel()


async def kill_orphaned_tools(store: SqliteLog, home: str) -> None:
    """Kills the process tools that the previous daemon left running. Recovery later closes their calls."""
    started = []
    for number in await store.read(read_unfinished_sessions):
        try:
            state = await store.session_state(number)
        except UnreadableRow:
            continue  # the runtime skips the session, and logs that, when it recovers
        if state and state.turn:
            started += [
                (process, call_marker(number, state.turn.number, call)) for call, process in state.turn.processes
            ]
    if started and (pids := await trio.to_thread.run_sync(kill_orphans, started, home)):
        log.warning("orphans_killed", pids=pids)
