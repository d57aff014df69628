"""The one way to a tool: the gates in order, then the intent, then the work with a deadline, then the outcome."""

from collections.abc import Mapping

import trio
from msgspec.structs import replace

from walrus_config import schema as config
from walrus_protocol.content import Outcome, ToolCall, ToolSchema
from walrus_protocol.events import ToolResult
from walrusd.dispatch.bounded_output import BoundedOutput
from walrusd.dispatch.capabilities import capabilities
from walrusd.dispatch.execution_result import ExecutionResult, error_text, milliseconds, timeout_text
from walrusd.dispatch.gate import ConfiguredTool, Gate, PolicySnapshot, Refusal
from walrusd.dispatch.permissions import permissions
from walrusd.dispatch.process_executor import ProcessExecutor
from walrusd.dispatch.schema_validation import compile_schema, validate
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import Redaction
from walrusd.ports import Clock, ProcessTool, Tool, ToolRequest, ToolRun

GATES: tuple[Gate, ...] = (validate, capabilities, permissions)
"""The order in which a request passes. A gate's name is that of its function."""


class Pipeline:
    """Built once of a whole configuration. Its `dispatch` is a ports.Dispatch."""

    def __init__(
        self,
        tools: Mapping[str, Tool | ProcessTool],
        *,
        settings: Mapping[str, config.ToolSettings],
        agents: Mapping[str, config.AgentSettings],
        permissions: config.PermissionSettings,
        clock: Clock,
        spawner: Spawner | None,
        home: str,
        redact: Redaction,
    ) -> None:
        """A tool that is not enabled is not there. Raises ValueError where a tool's schema is none.

        Process tools need a spawner; `home` is the walrus home, which their processes are told.
        """
        known = {
            name: _configure_tool(tool, settings.get(name, config.ToolSettings()))
            for name, tool in tools.items()
            if name not in settings or settings[name].enabled
        }
        self._policy = PolicySnapshot(tools=known, agents=agents, permissions=permissions)
        self._clock = clock
        self._redact = redact
        self._process_executor = ProcessExecutor(spawner, home=home, redact=redact, clock=clock) if spawner else None

    @property
    def schemas(self) -> tuple[ToolSchema, ...]:
        """What agents may be offered, with the limits of walrus.toml."""
        return tuple(known.schema for known in self._policy.tools.values())

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        """A refusal or the tool's outcome, always for the model to read.

        Raises only what `request.started` and `request.keep` raise.
        """
        for gate in GATES:
            if refusal := gate(self._policy, request):
                return _refusal_result(request.call, gate.__name__, refusal)
        known = self._policy.tools[request.call.name]
        assert isinstance(request.call.arguments, dict), "validate lets no other arguments pass"
        run = ToolRun(
            session=request.session, agent=request.agent, arguments=request.call.arguments, workspace=request.workspace
        )
        if isinstance(known.tool, ProcessTool):
            assert self._process_executor is not None, "process tools are given together with a spawner"
            ran = await self._process_executor.run(known.tool, known.schema, request, run)
        else:
            ran = await self._execute(known.tool, known.schema, request, run)
        return await _tool_result(request, ran)

    async def _execute(self, tool: Tool, schema: ToolSchema, request: ToolRequest, run: ToolRun) -> ExecutionResult:
        """The work of a tool in this process. One guard decides what an exception of it means."""
        await request.record_started(None)
        # An interrupt may have come while the intent was written; recording cannot be cancelled, so look now.
        await trio.lowlevel.checkpoint_if_cancelled()
        began = self._clock()
        outcome: Outcome = "timeout"
        text = timeout_text(schema.name, schema.timeout_s)
        with trio.move_on_after(schema.timeout_s):
            try:
                outcome, text = "ok", await tool.execute(run)
            except Exception as failure:  # noqa: BLE001 - `failed` tells a refusal from a bug, and logs that
                outcome, text = "error", error_text(request, failure)
        said = BoundedOutput(schema.max_output_bytes)
        said.add(self._redact(text))
        return ExecutionResult(outcome=outcome, output=said, duration_ms=milliseconds(self._clock() - began))


def _configure_tool(tool: Tool | ProcessTool, settings: config.ToolSettings) -> ConfiguredTool:
    schema = replace(
        tool.schema,
        timeout_s=settings.timeout_s or tool.schema.timeout_s,
        max_output_bytes=settings.max_output_bytes or tool.schema.max_output_bytes,
    )
    return ConfiguredTool(tool=tool, schema=schema, validator=compile_schema(schema))


def _refusal_result(call: ToolCall, gate: str, refusal: Refusal) -> ToolResult:
    text = refusal.text.encode("utf-8", "replace").decode()
    return ToolResult(
        call_id=call.id,
        name=call.name,
        output=text,
        is_error=True,
        outcome=refusal.outcome,
        gate=gate,
        rule=refusal.rule,
        bytes=len(text.encode()),
    )


async def _tool_result(request: ToolRequest, result: ExecutionResult) -> ToolResult:
    """The result, once what the model is not shown is kept."""
    ref = None if result.output.fits(result.note) else await request.store_output(result.output.stored)
    return ToolResult(
        call_id=request.call.id,
        name=request.call.name,
        output=result.output.format_for_model(result.note, ref),
        is_error=result.outcome != "ok",
        outcome=result.outcome,
        gate=None if result.outcome == "ok" else "execute",
        truncated=ref is not None,
        bytes=result.output.size,
        ref=ref,
        duration_ms=result.duration_ms,
    )
