"""The component of the agents: their definitions, their tools and the hooks of their turns."""

import time
from contextlib import suppress

from msgspec import Struct

from walrus_config import schema
from walrus_config.schema import Config
from walrus_protocol.events import ToolResult
from walrusd.agent.agent import Agent
from walrusd.composition.component import ModelProviders, Prepared
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.spawner import Spawner
from walrusd.observability.logging import log_turn
from walrusd.observability.metrics import Metrics
from walrusd.observability.redaction import Redaction
from walrusd.ports import ModelFailed, ToolRequest
from walrusd.providers.catalog import Catalog
from walrusd.runtime.hook import Hook
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.registry.agents import AgentRegistry
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.tools import TOOLS
from walrusd.tools.spec import ToolDeps


class ToolsHook(Hook):
    """Runs the calls of the built-in tools through the pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def on_register_tools(self, registry: ToolRegistry) -> None:
        for tool in self._pipeline.schemas:
            registry.register_tool(tool)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        return await self._pipeline.dispatch(request)


class Agents(Struct, frozen=True, kw_only=True):
    """The agents of the runtime. Running turns keep the definitions, tools and models that they began with."""

    runtime: Runtime
    models: ModelProviders
    metrics: Metrics
    spawner: Spawner
    redact: Redaction

    async def prepare(self, config: Config) -> Prepared:
        catalog = Catalog(config.providers, config.models)
        agents = [_build_agent(settings, catalog) for settings in config.agents.values()]
        observers = (self.metrics.on_event, log_turn)
        hook = ComposedHook(ToolsHook(self._build_pipeline(config)), observers=observers)
        registry = AgentRegistry(hook, agents)

        def commit() -> None:
            self.runtime.evict_idle_after(config.daemon.idle_evict_s)
            self.runtime.swap(self.models.active, registry)

        return Prepared(commit=commit)

    def _build_pipeline(self, config: Config) -> Pipeline:
        deps = ToolDeps(home=config.home)
        tools = {
            spec.name: tool
            for spec in TOOLS
            if (tool := spec.build(deps, config.tools.get(spec.name, schema.ToolSettings())))
        }
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


def _build_agent(settings: schema.AgentSettings, catalog: Catalog) -> Agent:
    model = settings.model
    if not model:
        with suppress(ModelFailed):  # each turn reports the error with a hint
            model = catalog.resolve("").model  # the only model of the configuration
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
