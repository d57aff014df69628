"""Applies a configuration to the runtime: its agents, its tools and the hook for events."""

import time
from contextlib import suppress

from msgspec import Struct

from walrus_config import schema
from walrus_config.schema import Config, is_bash_offered
from walrus_protocol.events import AnyEvent, Done, ToolResult
from walrusd.agent.agent import Agent
from walrusd.composition.reload import ActiveConfig
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.spawner import Spawner
from walrusd.observability.logging import log_turn, set_log_level
from walrusd.observability.metrics import Metrics
from walrusd.observability.redaction import Redaction
from walrusd.observability.secrets import collect_secrets
from walrusd.ports import ModelFailed, ProcessTool, Tool, ToolRequest
from walrusd.providers.registry import Models
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.tools.bash import TIMEOUT_S, BashTool
from walrusd.tools.files import ReadTool


class DaemonHook(Hook):
    """The daemon's hook: runs tools through the pipeline, counts events and logs a line for each turn."""

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


class ConfigApplier(Struct, frozen=True, kw_only=True):
    """Applies the active configuration to the runtime, at the start and at every reload."""

    runtime: Runtime
    metrics: Metrics
    spawner: Spawner
    redact: Redaction

    def apply(self, active: ActiveConfig) -> None:
        """Applies it without a checkpoint, so that no task sees one half of it."""
        config = active.config
        self.redact.update_secrets(collect_secrets(config))
        set_log_level(config.daemon.log_level)
        agents = [_build_agent(agent, active.models) for agent in config.agents.values()]
        self.runtime.evict_idle_after(config.daemon.idle_evict_s)
        self.runtime.swap(active.models, DaemonHook(self._build_pipeline(config), self.metrics), agents)

    def _build_pipeline(self, config: Config) -> Pipeline:
        max_bytes = config.tools.get("read", schema.ToolSettings()).max_output_bytes
        read = ReadTool(config.home, max_bytes) if max_bytes else ReadTool(config.home)
        tools: dict[str, Tool | ProcessTool] = {"read": read}
        if is_bash_offered(config.tools):
            tools["bash"] = BashTool(config.tools["bash"].timeout_s or TIMEOUT_S)
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


def _build_agent(settings: schema.AgentSettings, models: Models) -> Agent:
    model = settings.model
    if not model:
        with suppress(ModelFailed):  # each turn reports the error with a hint
            model = models.resolve("").model  # the only model of the configuration
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
