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

from walrus_config.paths import paths
from walrusd import __version__
from walrusd.host.notify import extending
from walrusd.host.process import undumpable
from walrusd.host.signals import watch_signals
from walrusd.host.surroundings import fewer_connections, most_connections
from walrusd.host.watchdog import watchdog
from walrusd.parts import Given, Parts, open_parts
from walrusd.rpc.call import House
from walrusd.rpc.listener import hold_home, listening, remove_at_once
from walrusd.rpc.server import Server

log = structlog.get_logger("walrusd")

LAST_STEPS_S = 60.0
"""What a stop may take beyond the grace, on a disk that hardly answers. TimeoutStopSec of the unit says the same."""


async def serve(given: Given) -> None:
    """Run on the config's home, until a signal or daemon.shutdown ends it.

    Raises AlreadyRunning, ListenerRefused, StorageFailed and TooFewFiles.
    """
    undumpable()
    daemon = given.config.daemon
    most = most_connections(daemon.max_connections, daemon.max_running_turns)
    stop = trio.Event()
    home, socket = Path(given.config.home), Path(given.socket)
    with hold_home(home, socket):
        with suppress(FileExistsError):
            os.mkdir(paths(given.config.home).workspace, 0o700)
        async with trio.open_nursery() as watching:  # to the last: a second TERM may come while the parts close
            async with open_parts(given, stopping=stop.is_set) as parts:
                last_act = partial(_leave_nothing, parts, socket)
                watch = partial(watch_signals, stop, reload=parts.reload.ask, last_act=last_act)
                await watching.start(watch)
                await _live(given, parts, most, stop)
            watching.cancel_scope.cancel()
    log.info("stopped", pid=os.getpid())


async def _live(given: Given, parts: Parts, most: int, stop: trio.Event) -> None:
    """Recover, serve and keep time, until `stop`; then end it in order."""
    async with extending(given.notify):
        await parts.runtime.recover()
    async with listening(Path(given.socket), given.inherited) as listener, trio.open_nursery() as nursery:
        house, server = _house(given, parts, most, stop)
        await nursery.start(parts.schedules.keep_time, parts.heartbeats(parts.reload.now))
        nursery.start_soon(server.serve, listener)
        nursery.start_soon(parts.reload.when_asked)
        nursery.start_soon(parts.space.keep)
        nursery.start_soon(parts.metrics.minute_lines, house.gauges)
        nursery.start_soon(watchdog, given.notify, parts.store.pulse)
        _settle_memory()
        _announce(given, house)
        await stop.wait()
        await _end(given, parts, server)
        nursery.cancel_scope.cancel()


def _house(given: Given, parts: Parts, most: int, stop: trio.Event) -> tuple[House, Server]:
    """What the handlers share, and the server that has them, for so many connections at most."""
    too_few = fewer_connections(most, given.config.daemon.max_connections)
    reload = parts.reload
    house = House(
        runtime=parts.runtime,
        config=lambda: reload.now.config,
        version=__version__,
        socket=given.socket,
        uptime=lambda: time.monotonic() - given.started,
        metrics=parts.metrics,
        providers=lambda: reload.now.models.status(),  # noqa: PLW0108 - of those in force when asked
        connections=lambda: server.connections,
        warnings=lambda: (*_of_now(parts, stop), *reload.now.warnings, *too_few),
        schedules=parts.schedules,
        reload=reload,
        space=parts.space,
        stop=stop.set,
    )
    server = Server(house, most)
    return house, server


def _of_now(parts: Parts, stop: trio.Event) -> Iterator[str]:
    """What a person should know that may be otherwise in a minute."""
    if stop.is_set():
        grace_s = parts.reload.now.config.daemon.shutdown_grace_s
        yield f"walrusd is stopping: turns that run are given {grace_s:g} s to end, and are suspended then."
    if suspended := parts.runtime.suspended():
        named = ", ".join(map(str, suspended[:10]))
        yield f"The log cannot be written, so turns are suspended in session {named}. Is the disk full?"
    elif trouble := parts.store.trouble:
        yield trouble
    if refused := parts.reload.refused:
        first, *more = refused.split("\n")
        others = f" (and {len(more)} more)" if more else ""
        yield f"The last reload was refused, and all is as before: {first}{others}. Mend it and reload again."
    yield from parts.schedules.warnings()
    yield from parts.space.warnings()


def _settle_memory() -> None:
    """What is there by now stays for ever, so no collection need look at it; and they need not come every 700 objects.

    Under load they would take a tenth of the loop's time. Reference counts free nearly all; cycles come with tasks.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _announce(given: Given, house: House) -> None:
    """Tell the log and the service manager that it is ready."""
    for warning in house.warnings():
        log.warning(warning)
    log.info(
        "ready",
        version=house.version,
        pid=os.getpid(),
        home=given.config.home,
        socket=given.socket,
        agents=sorted(given.config.agents),
        providers=sorted(given.config.providers),
        ms=round((time.monotonic() - given.started) * 1000),
    )
    given.notify.ready()
    given.notify.status(f"listening on {given.socket}")


def _leave_nothing(parts: Parts, socket: Path) -> None:
    """The last act of a walrusd that is to end at once."""
    parts.spawner.kill_all()
    remove_at_once(socket)


async def _end(given: Given, parts: Parts, server: Server) -> None:
    """No new turns; running ones have the grace, and are suspended then; everybody is told. The parts close later."""
    grace_s = parts.reload.now.config.daemon.shutdown_grace_s
    given.notify.stopping()
    given.notify.extend(grace_s + LAST_STEPS_S)
    log.info("stopping", grace_s=grace_s, running=parts.runtime.running)
    parts.schedules.stop()
    await parts.runtime.stop(grace_s)
    await parts.schedules.ended()
    await server.last_words()
