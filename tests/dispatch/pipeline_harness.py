"""A harness that sends calls through a tool pipeline, and a tool that runs any function."""

from collections.abc import Awaitable, Callable, Collection, Mapping

import trio

from walrus_config import schema as config
from walrus_protocol.content import ToolCall, ToolSchema
from walrus_protocol.events import ProcessGroupId, ToolResult
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import Redaction
from walrusd.ports import Clock, ProcessTool, Tool, ToolRequest, ToolRun

ALLOW = config.PermissionSettings(default="allow")
ANYTHING: dict[str, object] = {"type": "object"}


class FunctionTool:
    """A tool that executes `function`."""

    def __init__(
        self,
        name: str,
        function: Callable[[ToolRun], Awaitable[str]],
        parameters: dict[str, object] = ANYTHING,
        *,
        read_only: bool = False,
        timeout_s: float = 60.0,
        max_output_bytes: int = 64 * 1024,
    ) -> None:
        self.schema = ToolSchema(
            name=name,
            description=f"The tool {name}.",
            parameters=parameters,
            read_only=read_only,
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
        )
        self._function = function

    async def execute(self, run: ToolRun) -> str:
        return await self._function(run)


def returning(text: str) -> Callable[[ToolRun], Awaitable[str]]:
    """Returns a tool function that returns `text`."""

    async def execute(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        return text

    return execute


class PipelineHarness:
    """Sends calls through a pipeline. `starts` counts the calls whose start was recorded."""

    def __init__(
        self,
        *tools: Tool | ProcessTool,
        settings: Mapping[str, config.ToolSettings] | None = None,
        agents: Mapping[str, config.AgentSettings] | None = None,
        permissions: config.PermissionSettings = ALLOW,
        workspace: str = "/nowhere",
        clock: Clock = lambda: 0.0,
        spawner: Spawner | None = None,
        secrets: Collection[str] = (),
    ) -> None:
        self.pipeline = Pipeline(
            {tool.schema.name: tool for tool in tools},
            settings=settings or {},
            agents=agents or {},
            permissions=permissions,
            clock=clock,
            spawner=spawner,
            home="/walrus",
            redact=Redaction(secrets),
        )
        self.workspace = workspace
        self.starts = 0
        self.processes: list[ProcessGroupId] = []
        self.stored_outputs: dict[str, bytes] = {}
        self.outputs: list[str] = []
        self._output_arrived = trio.Event()

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
                record_started=self.record_started,
                store_output=self.store_output,
                on_output=self.add_output,
            )
        )

    async def record_started(self, process: ProcessGroupId | None) -> None:
        self.starts += 1
        self.processes += [process] if process else []

    def add_output(self, text: str) -> None:
        self.outputs.append(text)
        self._output_arrived.set()
        self._output_arrived = trio.Event()

    async def wait_output_lines(self, count: int) -> list[str]:
        """Returns the lines of the live output once there are at least `count`."""
        while len(lines := "".join(self.outputs).splitlines()) < count:
            await self._output_arrived.wait()
        return lines

    async def store_output(self, body: bytes) -> str:
        ref = f"ref{len(self.stored_outputs)}"
        self.stored_outputs[ref] = body
        return ref
