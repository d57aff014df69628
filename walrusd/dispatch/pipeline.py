"""Dispatches a tool call: runs the gates, records the start, executes the tool with a deadline."""

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
"""The gates in the order in which they run. The name of a gate is the name of its function."""


class Pipeline:
    """The tool pipeline of one configuration. Its `dispatch` implements ports.Dispatch."""

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
        """Leaves out disabled tools. Raises ValueError if a tool's schema is invalid.

        Process tools need a spawner; `home` is the walrus home, which their processes get in the environment.
        """
        configured = {
            name: _configure_tool(tool, settings.get(name, config.ToolSettings()))
            for name, tool in tools.items()
            if name not in settings or settings[name].enabled
        }
        self._policy = PolicySnapshot(tools=configured, agents=agents, permissions=permissions)
        self._clock = clock
        self._redact = redact
        self._process_executor = ProcessExecutor(spawner, home=home, redact=redact, clock=clock) if spawner else None

    @property
    def schemas(self) -> tuple[ToolSchema, ...]:
        """Returns the schemas of all enabled tools, with the limits of walrus.toml."""
        return tuple(configured.schema for configured in self._policy.tools.values())

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        """Returns a refusal or the tool's outcome, with a text for the model.

        Raises only what `request.record_started` and `request.store_output` raise.
        """
        for gate in GATES:
            if refusal := gate(self._policy, request):
                return _refusal_result(request.call, gate.__name__, refusal)
        configured = self._policy.tools[request.call.name]
        assert isinstance(request.call.arguments, dict), "the validate gate refuses other arguments"
        run = ToolRun(
            session=request.session, agent=request.agent, arguments=request.call.arguments, workspace=request.workspace
        )
        if isinstance(configured.tool, ProcessTool):
            assert self._process_executor is not None, "process tools need a spawner"
            result = await self._process_executor.run(configured.tool, configured.schema, request, run)
        else:
            result = await self._execute(configured.tool, configured.schema, request, run)
        return await _tool_result(request, result)

    async def _execute(self, tool: Tool, schema: ToolSchema, request: ToolRequest, run: ToolRun) -> ExecutionResult:
        """Executes a tool in this process; turns its exceptions into error results."""
        await request.record_started(None)
        # An interrupt may have come while the start was recorded; recording cannot be cancelled, so check now.
        await trio.lowlevel.checkpoint_if_cancelled()
        began = self._clock()
        outcome: Outcome = "timeout"
        text = timeout_text(schema.name, schema.timeout_s)
        with trio.move_on_after(schema.timeout_s):
            try:
                outcome, text = "ok", await tool.execute(run)
            except Exception as failure:  # noqa: BLE001 - `error_text` logs bugs
                outcome, text = "error", error_text(request, failure)
        output = BoundedOutput(schema.max_output_bytes)
        output.add(self._redact(text))
        return ExecutionResult(outcome=outcome, output=output, duration_ms=milliseconds(self._clock() - began))


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
    """Returns the result event; an output that is too long to show in full is stored first."""
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
