"""A pipeline to send calls through, and tools that do what they are given to do."""

from collections.abc import Awaitable, Callable, Collection, Mapping

import trio

from walrus_config import schema as config
from walrus_protocol.content import ToolCall, ToolSchema
from walrus_protocol.events import Process, ToolResult
from walrusd.dispatch.pipeline import Pipeline
from walrusd.host.spawner import Spawner
from walrusd.ports import Clock, ProcessTool, Tool, ToolRequest, ToolRun
from walrusd.redaction import Redaction

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
        *tools: Tool | ProcessTool,
        settings: Mapping[str, config.Tool] | None = None,
        agents: Mapping[str, config.Agent] | None = None,
        permissions: config.Permissions = ALLOW,
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
        self.intents = 0
        self.processes: list[Process] = []
        self.kept: dict[str, bytes] = {}
        self.said: list[str] = []
        self._heard = trio.Event()

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
                started=self.started,
                keep=self.keep,
                say=self.say,
            )
        )

    async def started(self, process: Process | None) -> None:
        self.intents += 1
        self.processes += [process] if process else []

    def say(self, text: str) -> None:
        self.said.append(text)
        self._heard.set()
        self._heard = trio.Event()

    async def lines_said(self, count: int) -> list[str]:
        """So many lines of a running tool's output, once they have been said."""
        while len(lines := "".join(self.said).splitlines()) < count:
            await self._heard.wait()
        return lines

    async def keep(self, body: bytes) -> str:
        ref = f"ref{len(self.kept)}"
        self.kept[ref] = body
        return ref
