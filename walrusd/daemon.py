"""Be walrusd: open the parts, recover, serve, keep time, and end it all in order."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from walrus_config.paths import home_paths
from walrusd import __version__
from walrusd.composition.components import Components, StartupOptions, open_components
from walrusd.host.peer_credentials import set_undumpable
from walrusd.host.resource_limits import connection_limit_warning, limit_connections
from walrusd.host.sd_notify import extending_timeout
from walrusd.host.signals import watch_signals
from walrusd.host.watchdog import run_watchdog
from walrusd.rpc.listener import lock_home, open_listener, remove_own_socket
from walrusd.rpc.request_context import DaemonServices
from walrusd.rpc.server import Server

log = structlog.get_logger("walrusd")

SHUTDOWN_MARGIN_S = 60.0
"""What a stop may take beyond the grace, on a disk that hardly answers. TimeoutStopSec of the unit says the same."""


async def serve(options: StartupOptions) -> None:
    """Run on the config's home, until a signal or daemon.shutdown ends it.

    Raises AlreadyRunning, ListenerRefused, StorageFailed and TooFewFiles.
    """
    set_undumpable()
    daemon = options.config.daemon
    most = limit_connections(daemon.max_connections, daemon.max_running_turns)
    stop = trio.Event()
    home, socket = Path(options.config.home), Path(options.socket)
    with lock_home(home, socket):
        with suppress(FileExistsError):
            os.mkdir(home_paths(options.config.home).workspace, 0o700)
        async with trio.open_nursery() as watching:  # to the last: a second TERM may come while the parts close
            async with open_components(options, is_stopping=stop.is_set) as parts:
                last_act = partial(_kill_children_and_unlink, parts, socket)
                watch = partial(watch_signals, stop, reload=parts.reloader.request, on_forced_exit=last_act)
                await watching.start(watch)
                await _run_until_stopped(options, parts, most, stop)
            watching.cancel_scope.cancel()
    log.info("stopped", pid=os.getpid())


async def _run_until_stopped(
    options: StartupOptions, components: Components, max_connections: int, stop: trio.Event
) -> None:
    """Recover, serve and keep time, until `stop`; then end it in order."""
    async with extending_timeout(options.notify):
        await components.runtime.recover()
    async with (
        open_listener(Path(options.socket), options.inherited_socket) as listener,
        trio.open_nursery() as nursery,
    ):
        house, server = _build_server(options, components, max_connections, stop)
        await nursery.start(components.scheduler.run_scheduler, components.build_heartbeats(components.reloader.active))
        nursery.start_soon(server.serve, listener)
        nursery.start_soon(components.reloader.run)
        nursery.start_soon(components.retention.run)
        nursery.start_soon(components.metrics.run_minute_log, house.read_gauges)
        nursery.start_soon(run_watchdog, options.notify, components.store.wait_for_writes)
        _tune_gc()
        _report_ready(options, house)
        await stop.wait()
        await _shut_down(options, components, server)
        nursery.cancel_scope.cancel()


def _build_server(
    options: StartupOptions, components: Components, max_connections: int, stop: trio.Event
) -> tuple[DaemonServices, Server]:
    """What the handlers share, and the server that has them, for so many connections at most."""
    too_few = connection_limit_warning(max_connections, options.config.daemon.max_connections)
    reload = components.reloader
    house = DaemonServices(
        runtime=components.runtime,
        importer=components.importer,
        config=lambda: reload.active.config,
        version=__version__,
        socket=options.socket,
        uptime_s=lambda: time.monotonic() - options.started_at,
        metrics=components.metrics,
        provider_statuses=lambda: reload.active.models.status(),  # noqa: PLW0108 - of those in force when asked
        connection_count=lambda: server.connection_count,
        warnings=lambda: (*_current_warnings(components, stop), *reload.active.warnings, *too_few),
        scheduler=components.scheduler,
        reload=reload,
        retention=components.retention,
        request_stop=stop.set,
    )
    server = Server(house, max_connections)
    return house, server


def _current_warnings(components: Components, stop: trio.Event) -> Iterator[str]:
    """What a person should know that may be otherwise in a minute."""
    if stop.is_set():
        grace_s = components.reloader.active.config.daemon.shutdown_grace_s
        yield f"walrusd is stopping: turns that run are given {grace_s:g} s to end, and are suspended then."
    if suspended := components.runtime.suspended_sessions():
        named = ", ".join(map(str, suspended[:10]))
        yield f"The log cannot be written, so turns are suspended in session {named}. Is the disk full?"
    elif trouble := components.store.write_warning:
        yield trouble
    if refused := components.reloader.last_error:
        first, *more = refused.split("\n")
        others = f" (and {len(more)} more)" if more else ""
        yield f"The last reload was refused, and all is as before: {first}{others}. Mend it and reload again."
    yield from components.scheduler.warnings()
    yield from components.retention.warnings()


def _tune_gc() -> None:
    """What is there by now stays for ever, so no collection need look at it; and they need not come every 700 objects.

    Under load they would take a tenth of the loop's time. Reference counts free nearly all; cycles come with tasks.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _report_ready(options: StartupOptions, services: DaemonServices) -> None:
    """Tell the log and the service manager that it is ready."""
    for warning in services.warnings():
        log.warning(warning)
    log.info(
        "ready",
        version=services.version,
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
    """The last act of a walrusd that is to end at once."""
    components.spawner.kill_all()
    remove_own_socket(socket)


async def _shut_down(options: StartupOptions, components: Components, server: Server) -> None:
    """No new turns; running ones have the grace, and are suspended then; everybody is told. The parts close later."""
    grace_s = components.reloader.active.config.daemon.shutdown_grace_s
    options.notify.stopping()
    options.notify.extend_timeout(grace_s + SHUTDOWN_MARGIN_S)
    log.info("stopping", grace_s=grace_s, running=components.runtime.running_turns)
    components.scheduler.stop()
    await components.runtime.stop(grace_s)
    await components.scheduler.wait_finished()
    await server.drain_responses()
