"""A pipeline to send calls through, and tools that do what they are given to do."""

from collections.abc import Awaitable, Callable, Mapping

import trio

from walrus_config import schema as config
from walrus_protocol.content import ToolCall, ToolSchema
from walrus_protocol.events import Process, ToolResult
from walrusd.dispatch.pipeline import Pipeline
from walrusd.ports import Clock, Tool, ToolRequest, ToolRun

ALLOW = config.Permissions(default="allow")
ANYTHING: dict[str, object] = {"type": "object"}


class Doing:
    """A tool whose work is `work`."""

    def __init__(
        self,
        name: str,
        work: Callable[[ToolRun], Awaitable[str]],
        parameters: dict[str, object] = ANYTHING,
        *,
        read_only: bool = False,
        timeout_s: float = 60.0,
        max_output_bytes: int = 64 * 1024,
    ) -> None:
        self.schema = ToolSchema(
            name=name,
            description=f"It is {name}.",
            parameters=parameters,
            read_only=read_only,
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
        )
        self._work = work

    async def execute(self, run: ToolRun) -> str:
        return await self._work(run)


def saying(text: str) -> Callable[[ToolRun], Awaitable[str]]:
    async def work(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        return text

    return work


class Counter:
    """Sends calls through a pipeline. `intents` counts those whose intent was recorded."""

    def __init__(
        self,
        *tools: Tool,
        settings: Mapping[str, config.Tool] | None = None,
        agents: Mapping[str, config.Agent] | None = None,
        permissions: config.Permissions = ALLOW,
        workspace: str = "/nowhere",
        clock: Clock = lambda: 0.0,
    ) -> None:
        self.pipeline = Pipeline(
            {tool.schema.name: tool for tool in tools},
            settings=settings or {},
            agents=agents or {},
            permissions=permissions,
            clock=clock,
        )
        self.workspace = workspace
        self.intents = 0

    def schema(self, name: str) -> ToolSchema | None:
        return next((schema for schema in self.pipeline.schemas if schema.name == name), None)

    async def call(
        self, name: str, arguments: dict[str, object] | str, *, agent: str = "walrus", offered: bool = True
    ) -> ToolResult:
        return await self.pipeline.dispatch(
            ToolRequest(
                session=1,
                turn=1,
                agent=agent,
                call=ToolCall("c1", name, arguments),
                schema=self.schema(name) if offered else None,
                workspace=self.workspace,
                started=self._started,
            )
        )

    async def _started(self, process: Process | None) -> None:
        assert process is None
        self.intents += 1
