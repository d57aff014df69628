"""The composition root: each part built once, one nursery, in the order in which they need each other."""

import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
import trio

from walrus_config import schema
from walrus_config.load import NO_PROVIDER
from walrus_config.paths import paths
from walrus_config.schema import Config
from walrus_protocol.events import AnyEvent, Done, ToolResult
from walrusd import __version__
from walrusd.agent.agent import Agent
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.process import undumpable
from walrusd.log import log_turn
from walrusd.ports import ModelFailed, Tool, ToolRequest
from walrusd.providers.registry import Models, open_models
from walrusd.rpc.call import House
from walrusd.rpc.listener import hold_home, listening
from walrusd.rpc.server import Server
from walrusd.runtime.hook import Hook
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.schemas import ToolRegistry
from walrusd.store.sqlite import SqliteLog
from walrusd.tools.files import Read

log = structlog.get_logger("walrusd")

STORE_CLOSES_S = 10.0
"""How long the store may take for its last writes and checkpoint."""
EXIT_AT_ONCE = 130
"""A shell's code for what was ended by the second Ctrl-C."""
Ready = trio.TaskStatus[None]


class DaemonHook(Hook):
    """What the daemon adds to a runtime: the tools behind their pipeline, and a line of log for each turn."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def on_register_tools(self, registry: ToolRegistry) -> None:
        for tool in self._pipeline.schemas:
            registry.register_tool(tool)

    def on_event(self, agent: str, event: AnyEvent) -> None:
        if isinstance(event, Done):
            log_turn(agent, event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        return await self._pipeline.dispatch(request)


async def serve(config: Config, *, socket: str, started: float, task_status: Ready = trio.TASK_STATUS_IGNORED) -> None:
    """Be walrusd on the config's home, until a signal or daemon.shutdown ends it.

    `started` is the unix time of the process's start. Raises AlreadyRunning, ListenerRefused and StorageFailed.
    """
    home = paths(config.home)
    undumpable()
    stop = trio.Event()
    with hold_home(Path(config.home), Path(socket)):
        async with (
            _store(home.database, config) as store,
            open_models(config.providers, config.models) as models,
            Runtime(
                models, DaemonHook(_pipeline(config)), log=store, max_running_turns=config.daemon.max_running_turns
            ) as runtime,
        ):
            for agent in config.agents.values():
                runtime.add_agent(_agent(agent, models))
            await runtime.recover()
            async with listening(Path(socket)) as listener, trio.open_nursery() as nursery:
                house = House(
                    runtime=runtime,
                    config=config,
                    version=__version__,
                    socket=socket,
                    uptime=lambda: time.time() - started,
                    providers=models.status,
                    connections=lambda: server.connections,
                    warnings=_standing(await _warnings(config, models), runtime),
                    stop=stop.set,
                )
                server = Server(house, config.daemon.max_connections)
                await nursery.start(_watch_signals, stop)
                nursery.start_soon(server.serve, listener)
                _settle_memory()
                _announce(config, house, started)
                task_status.started()
                await stop.wait()
                log.info("stopping", grace_s=config.daemon.shutdown_grace_s, running=runtime.running)
                await runtime.stop(config.daemon.shutdown_grace_s)
                await server.last_words()
                nursery.cancel_scope.cancel()
    log.info("stopped", pid=os.getpid())


def _settle_memory() -> None:
    """What is there by now stays for ever, so no collection need look at it; and they need not come every 700 objects.

    Under load they would take a tenth of the loop's time. Reference counts free nearly all; cycles come with tasks.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _pipeline(config: Config) -> Pipeline:
    cap = config.tools.get("read", schema.Tool()).max_output_bytes
    tools: dict[str, Tool] = {"read": Read(config.home, cap) if cap else Read(config.home)}
    return Pipeline(
        tools, settings=config.tools, agents=config.agents, permissions=config.permissions, clock=time.monotonic
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
async def _store(path: str, config: Config) -> AsyncIterator[SqliteLog]:
    store = await SqliteLog.open(path, durability=config.storage.durability)
    try:
        yield store
    finally:
        with trio.move_on_after(STORE_CLOSES_S, shield=True):
            await store.aclose()


async def _warnings(config: Config, models: Models) -> tuple[str, ...]:
    """What a person should know: for the log at the start, and for `status` at any time."""
    if not (hint := await models.hint()):
        return config.warnings
    others = (warning for warning in config.warnings if NO_PROVIDER not in warning)
    return (*others, f"No model provider is configured. {hint}")


def _standing(warnings: tuple[str, ...], runtime: Runtime) -> Callable[[], tuple[str, ...]]:
    """Those of the start, and what is wrong at the moment of asking."""

    def now() -> tuple[str, ...]:
        suspended = runtime.suspended()
        if not suspended:
            return warnings
        named = ", ".join(map(str, suspended[:10]))
        return (*warnings, f"The log cannot be written, so turns are suspended in session {named}. Is the disk full?")

    return now


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
        ms=round((time.time() - started) * 1000),
    )


async def _watch_signals(stop: trio.Event, task_status: Ready = trio.TASK_STATUS_IGNORED) -> None:
    """TERM and INT stop; a second one ends at once. What is durable stays so either way."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                log.warning("not reloaded: that is not available yet", signal=name, hint="Restart walrusd instead.")
            elif stop.is_set():
                log.warning("ending at once", signal=name)
                os._exit(EXIT_AT_ONCE)
            else:
                log.info("signal", signal=name)
                stop.set()
