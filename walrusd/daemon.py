"""The composition root: each part built once, one nursery, in the order in which they need each other."""

import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from walrus_config import schema
from walrus_config.paths import paths
from walrus_config.schema import Config, offers_bash
from walrus_protocol.events import AnyEvent, Done, ToolResult
from walrusd import __version__
from walrusd.agent.agent import Agent
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.activation import Inherited
from walrusd.host.clock import SystemClock
from walrusd.host.notify import Notify, extending
from walrusd.host.process import undumpable
from walrusd.host.spawner import Spawner
from walrusd.host.surroundings import fewer_connections, most_connections
from walrusd.host.survivors import end_survivors, mark_of
from walrusd.host.watchdog import watchdog
from walrusd.log import log_turn, secrets_of, tell_from
from walrusd.metrics import Metrics
from walrusd.ports import ModelFailed, ProcessTool, Tool, ToolRequest
from walrusd.providers.registry import Models, open_models
from walrusd.redaction import Redaction
from walrusd.reload import InForce, Reload, in_force_with
from walrusd.rpc.call import House
from walrusd.rpc.listener import hold_home, listening
from walrusd.rpc.server import Server
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.hook import Hook
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.schemas import ToolRegistry
from walrusd.schedule.heartbeat import Tools, heartbeats
from walrusd.schedule.pending import TodoFile
from walrusd.schedule.probe import Probes
from walrusd.schedule.schedules import Schedules
from walrusd.store.sqlite import SqliteLog
from walrusd.tools.bash import TIMEOUT_S, Bash
from walrusd.tools.files import Read

log = structlog.get_logger("walrusd")

STORE_CLOSES_S = 10.0
"""How long the store may take for its last writes and checkpoint."""
LAST_STEPS_S = 60.0
"""What a stop may take beyond the grace, on a disk that hardly answers. TimeoutStopSec of the unit says the same."""
EXIT_AT_ONCE = 130
"""A shell's code for what was ended by the second Ctrl-C."""
Ready = trio.TaskStatus[None]


class DaemonHook(Hook):
    """What the daemon adds to a runtime: the tools behind their pipeline, and a line of log for each turn."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._metrics = metrics

    def on_register_tools(self, registry: ToolRegistry) -> None:
        for tool in self._pipeline.schemas:
            registry.register_tool(tool)

    def on_event(self, agent: str, event: AnyEvent) -> None:
        self._metrics.on_event(agent, event)
        if isinstance(event, Done):
            log_turn(agent, event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        return await self._pipeline.dispatch(request)


async def serve(
    config: Config,
    *,
    socket: str,
    started: float,
    redact: Redaction,
    umask: int,
    notify: Notify,
    inherited: Inherited | None = None,
    task_status: Ready = trio.TASK_STATUS_IGNORED,
) -> None:
    """Be walrusd on the config's home, until a signal or daemon.shutdown ends it.

    `started`: when the process was, on the monotonic clock. `umask` is the user's, for what tools start. Raises
    AlreadyRunning, ListenerRefused, StorageFailed and TooFewFiles.
    """
    home = paths(config.home)
    undumpable()
    stop, metrics = trio.Event(), Metrics(__version__)
    most = most_connections(config.daemon.max_connections, config.daemon.max_running_turns)
    too_few = fewer_connections(most, config.daemon.max_connections)
    with hold_home(Path(config.home), Path(socket)):
        async with (
            _store(home.database, config, notify) as store,
            _spawner(store, config.home, umask) as spawner,
            open_models(config.providers, config.models, spawner=spawner) as models,
            Runtime(models, log=store, max_running_turns=config.daemon.max_running_turns) as runtime,
        ):
            put = partial(_put, runtime, metrics, spawner, redact)
            put(now := await in_force_with(config, models))
            facts = await DaemonFacts.open(store)
            schedules = Schedules(runtime, facts, SystemClock(), metrics.on_event)
            probes = Probes(spawner, home=config.home, redact=redact)
            woken = Tools(runtime=runtime, probe=probes, sources=(TodoFile(home.agents),))
            reload = Reload(
                now,
                put=put,
                follow=lambda now: schedules.configure(heartbeats(now.config, woken)),
                facts=facts,
                see=partial(metrics.on_event, ""),
                notify=notify,
                clock=time.time,
                stopping=stop.is_set,
            )
            async with extending(notify):
                await runtime.recover()
            async with listening(Path(socket), inherited) as listener, trio.open_nursery() as nursery:
                house = House(
                    runtime=runtime,
                    config=lambda: reload.now.config,
                    version=__version__,
                    socket=socket,
                    uptime=lambda: time.monotonic() - started,
                    metrics=metrics,
                    providers=lambda: reload.now.models.status(),  # noqa: PLW0108 - of those in force when asked
                    connections=lambda: server.connections,
                    warnings=lambda: (*reload.now.warnings, *too_few, *_suspended(runtime)),
                    schedules=schedules,
                    reload=reload,
                    stop=stop.set,
                )
                server = Server(house, most)
                await nursery.start(_watch_signals, stop, reload.ask)
                await nursery.start(spawner.reap)
                await nursery.start(schedules.keep_time, heartbeats(config, woken))
                nursery.start_soon(server.serve, listener)
                nursery.start_soon(reload.when_asked)
                nursery.start_soon(metrics.minute_lines, house.gauges)
                _settle_memory()
                _announce(config, house, started)
                notify.ready()
                notify.status(f"listening on {socket}")
                nursery.start_soon(watchdog, notify, store.pulse)
                task_status.started()
                await stop.wait()
                grace_s = reload.now.config.daemon.shutdown_grace_s
                notify.stopping()
                notify.extend(grace_s + LAST_STEPS_S)
                log.info("stopping", grace_s=grace_s, running=runtime.running)
                schedules.stop()
                await runtime.stop(grace_s)
                await schedules.ended()
                await server.last_words()
                nursery.cancel_scope.cancel()
    log.info("stopped", pid=os.getpid())


def _settle_memory() -> None:
    """What is there by now stays for ever, so no collection need look at it; and they need not come every 700 objects.

    Under load they would take a tenth of the loop's time. Reference counts free nearly all; cycles come with tasks.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _put(runtime: Runtime, metrics: Metrics, spawner: Spawner, redact: Redaction, now: InForce) -> None:
    """Give what is in force to all who go by it, in one step."""
    config = now.config
    redact.learn(secrets_of(config))
    tell_from(config.daemon.log_level)
    agents = [_agent(agent, now.models) for agent in config.agents.values()]
    runtime.evict_idle_after(config.daemon.idle_evict_s)
    runtime.swap(now.models, DaemonHook(_pipeline(config, spawner, redact), metrics), agents)


def _pipeline(config: Config, spawner: Spawner, redact: Redaction) -> Pipeline:
    cap = config.tools.get("read", schema.Tool()).max_output_bytes
    tools: dict[str, Tool | ProcessTool] = {"read": Read(config.home, cap) if cap else Read(config.home)}
    if offers_bash(config.tools):
        tools["bash"] = Bash(config.tools["bash"].timeout_s or TIMEOUT_S)
    return Pipeline(
        tools,
        settings=config.tools,
        agents=config.agents,
        permissions=config.permissions,
        clock=time.monotonic,
        spawner=spawner,
        home=config.home,
        redact=redact,
    )


def _agent(settings: schema.Agent, models: Models) -> Agent:
    model = settings.model
    if not model:
        with suppress(ModelFailed):  # said at each turn, with what to do
            model = models.resolve("").model  # the only one there is
    return Agent(
        name=settings.name,
        description=settings.description,
        system_prompt=settings.system_prompt,
        model=model,
        max_iterations=settings.max_iterations,
        thinking=settings.thinking,
        allowed_tools=settings.tools,
        denied_tools=settings.deny_tools,
        workspace=settings.workspace,
    )


@asynccontextmanager
async def _spawner(store: SqliteLog, home: str, umask: int) -> AsyncIterator[Spawner]:
    """What the daemon before this one has left running is ended first: `mend` tells what became of its calls."""
    started = [
        (process, mark_of(outline.id, outline.turn.number, call))
        for number in await store.unfinished()
        if (outline := await store.outline(number)) and outline.turn
        for call, process in outline.turn.processes
    ]
    if started and (ended := await trio.to_thread.run_sync(end_survivors, started, home)):
        log.warning("survivors ended", pids=ended)
    async with Spawner(umask) as spawner:
        yield spawner


@asynccontextmanager
async def _store(path: str, config: Config, notify: Notify) -> AsyncIterator[SqliteLog]:
    async with extending(notify):  # migrating may take its time
        store = await SqliteLog.open(path, durability=config.storage.durability)
    try:
        yield store
    finally:
        with trio.move_on_after(STORE_CLOSES_S, shield=True):
            await store.aclose()


def _suspended(runtime: Runtime) -> tuple[str, ...]:
    """What is wrong with the store at the moment of asking."""
    if not (suspended := runtime.suspended()):
        return ()
    named = ", ".join(map(str, suspended[:10]))
    return (f"The log cannot be written, so turns are suspended in session {named}. Is the disk full?",)


def _announce(config: Config, house: House, started: float) -> None:
    for warning in house.warnings():
        log.warning(warning)
    log.info(
        "ready",
        version=house.version,
        pid=os.getpid(),
        home=config.home,
        socket=house.socket,
        agents=sorted(config.agents),
        providers=sorted(config.providers),
        ms=round((time.monotonic() - started) * 1000),
    )


async def _watch_signals(
    stop: trio.Event, reload: Callable[[], None], task_status: Ready = trio.TASK_STATUS_IGNORED
) -> None:
    """TERM and INT stop; a second one ends at once. What is durable stays so either way. HUP reloads."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                reload()
            elif stop.is_set():
                log.warning("ending at once", signal=name)
                os._exit(EXIT_AT_ONCE)
            else:
                log.info("signal", signal=name)
                stop.set()
