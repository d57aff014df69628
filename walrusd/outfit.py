"""What a configuration gives the runtime: its agents, its tools behind their pipeline, and who sees what happens."""

import time
from contextlib import suppress

from msgspec import Struct

from walrus_config import schema
from walrus_config.schema import Config, offers_bash
from walrus_protocol.events import AnyEvent, Done, ToolResult
from walrusd.agent.agent import Agent
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.spawner import Spawner
from walrusd.log import log_turn, secrets_of, tell_from
from walrusd.metrics import Metrics
from walrusd.ports import ModelFailed, ProcessTool, Tool, ToolRequest
from walrusd.providers.registry import Models
from walrusd.redaction import Redaction
from walrusd.reload import InForce
from walrusd.runtime.hook import Hook
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.schemas import ToolRegistry
from walrusd.tools.bash import TIMEOUT_S, Bash
from walrusd.tools.files import Read


class DaemonHook(Hook):
    """What the daemon adds to a runtime: the tools behind their pipeline, a line of log for each turn, and counts."""

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


class Outfit(Struct, frozen=True, kw_only=True):
    """Puts what is in force on a runtime, at the start and at every reload."""

    runtime: Runtime
    metrics: Metrics
    spawner: Spawner
    redact: Redaction

    def put(self, now: InForce) -> None:
        """In one step: nobody sees half of it."""
        config = now.config
        self.redact.learn(secrets_of(config))
        tell_from(config.daemon.log_level)
        agents = [_agent(agent, now.models) for agent in config.agents.values()]
        self.runtime.evict_idle_after(config.daemon.idle_evict_s)
        self.runtime.swap(now.models, DaemonHook(self._pipeline(config), self.metrics), agents)

    def _pipeline(self, config: Config) -> Pipeline:
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
            spawner=self.spawner,
            home=config.home,
            redact=self.redact,
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
