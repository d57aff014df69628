"""Runs the daemon: opens its components, recovers, serves, and shuts down in order."""

import gc
import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from walrus_config.paths import home_paths
from walrusd import __version__
from walrusd.composition.components import Components, StartupOptions, open_components
from walrusd.composition.daemon_status import DaemonStatus
from walrusd.host.libc import set_undumpable
from walrusd.host.resource_limits import limit_connections
from walrusd.host.sd_notify import extending_timeout
from walrusd.host.signals import watch_signals
from walrusd.host.watchdog import run_watchdog
from walrusd.rpc.handlers import (
    agent,
    config,
    daemon,
    export_import,
    fork_rewind,
    schedule,
    search,
    send,
    session,
    subscriptions,
    tool,
)
from walrusd.rpc.listener import lock_home, open_listener, remove_own_socket
from walrusd.rpc.routes import Routes
from walrusd.rpc.server import Server

log = structlog.get_logger("walrusd")

SHUTDOWN_MARGIN_S = 60.0
"""Seconds that a stop may take beyond the grace period, on a very slow disk.

TimeoutStopSec of the unit includes them.
"""


async def serve(options: StartupOptions) -> None:
    """Runs the daemon on the home of the configuration until a signal or `daemon.shutdown` stops it.

    Raises StartupFailed and StorageFailed.
    """
    set_undumpable()
    settings = options.config.daemon
    max_connections = limit_connections(settings.max_connections, settings.max_running_turns)
    stop = trio.Event()
    home, socket = Path(options.config.home), Path(options.socket)
    with lock_home(home, socket):
        with suppress(FileExistsError):
            os.mkdir(home_paths(options.config.home).workspace, 0o700)
        # Signals are watched until the end, because a second TERM may come while the components close.
        async with trio.open_nursery() as signal_nursery:
            async with open_components(options, is_stopping=stop.is_set) as components:
                on_forced_exit = partial(_kill_children_and_unlink, components, socket)
                watch = partial(watch_signals, stop, reload=components.active.request, on_forced_exit=on_forced_exit)
                await signal_nursery.start(watch)
                await _run_until_stopped(options, components, max_connections, stop)
            signal_nursery.cancel_scope.cancel()
    log.info("stopped", pid=os.getpid())


async def _run_until_stopped(
    options: StartupOptions, components: Components, max_connections: int, stop: trio.Event
) -> None:
    """Recovers the runtime, serves until `stop` is set, then shuts down in order."""
    async with extending_timeout(options.notify):
        await components.runtime.recover()
    async with (
        open_listener(Path(options.socket), options.inherited_socket) as listener,
        trio.open_nursery() as nursery,
    ):
        status = DaemonStatus(options, components, stop, max_connections=max_connections)
        server = Server(
            _build_routes(components, status, stop),
            components.metrics,
            max_connections=max_connections,
            upload_folder=options.config.home,
        )
        await nursery.start(components.scheduler.run_scheduler, components.heartbeats.jobs)
        nursery.start_soon(server.serve, listener)
        nursery.start_soon(components.active.run)
        nursery.start_soon(components.retention.run)
        nursery.start_soon(components.metrics.run_minute_log, status.read_gauges)
        nursery.start_soon(run_watchdog, options.notify, components.store.wait_for_writes)
        _tune_gc()
        _report_ready(options, status)
        await stop.wait()
        await _shut_down(options, components, server)
        nursery.cancel_scope.cancel()


def _build_routes(components: Components, status: DaemonStatus, stop: trio.Event) -> Routes:
    """Joins the handlers of all methods with the objects that they need."""
    runtime, active = components.runtime, components.active
    return {
        **daemon.routes(
            status, components.metrics, components.retention, reload_config=active.reload, request_stop=stop.set
        ),
        **agent.routes(runtime),
        **session.routes(runtime),
        **send.routes(runtime),
        **subscriptions.routes(runtime),
        **search.routes(runtime.log),
        **fork_rewind.routes(runtime),
        **export_import.routes(runtime, components.importer),
        **tool.routes(runtime),
        **schedule.routes(components.scheduler),
        **config.routes(lambda: active.config),
    }


def _tune_gc() -> None:
    """Excludes the present objects from garbage collection, and makes collections rarer.

    The present objects stay for ever, so scanning them is useless. With the default of 700 objects, collections take a
    tenth of the loop's time under load. Reference counts free nearly all objects: an evicted session breaks its
    reference cycles, and others come only with tasks.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _report_ready(options: StartupOptions, status: DaemonStatus) -> None:
    """Logs that the daemon is ready, with its warnings, and notifies the service manager."""
    for warning in status.warnings():
        log.warning("status_warning", message=warning)
    log.info(
        "ready",
        version=__version__,
        pid=os.getpid(),
        home=options.config.home,
        socket=options.socket,
        agents=sorted(options.config.agents),
        providers=sorted(options.config.providers),
        ms=round((time.monotonic() - options.started_at) * 1000),
    )
    options.notify.ready()
    options.notify.status(f"listening on {options.socket}")


def _kill_children_and_unlink(components: Components, socket: Path) -> None:
    """Kills all children and removes the socket before a forced exit."""
    components.spawner.kill_all()
    remove_own_socket(socket)


async def _shut_down(options: StartupOptions, components: Components, server: Server) -> None:
    """Stops new turns, suspends running ones after the grace period, and sends the last responses.

    The caller closes the components afterwards.
    """
    grace_s = components.active.config.daemon.shutdown_grace_s
    options.notify.stopping()
    options.notify.extend_timeout(grace_s + SHUTDOWN_MARGIN_S)
    log.info("stopping", grace_s=grace_s, running=components.runtime.running_turns)
    components.scheduler.stop()
    await components.runtime.stop(grace_s)
    await components.scheduler.wait_finished()
    await server.drain_responses()
