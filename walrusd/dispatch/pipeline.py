"""The one way to a tool: the gates in order, then the intent, then the work with a deadline, then the outcome."""

from collections.abc import Mapping

import structlog
import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_config import schema as config
from walrus_protocol.content import Outcome, ToolCall, ToolSchema
from walrus_protocol.events import ToolResult
from walrusd.dispatch.arguments import compiled, validate
from walrusd.dispatch.capabilities import capabilities
from walrusd.dispatch.gate import Gate, Known, Rules
from walrusd.dispatch.permissions import permissions
from walrusd.ports import Clock, Tool, ToolFailed, ToolRequest, ToolRun

log = structlog.get_logger("walrusd.tool")

GATES: tuple[Gate, ...] = (validate, capabilities, permissions)
"""The order in which a request passes. A gate's name is that of its function."""


MAX_OUTPUT = 64 * 1024
"""Bytes of a result that go to the model where no tool says otherwise."""


class Ran(Struct, frozen=True):
    """What became of a tool that was executed."""

    outcome: Outcome
    text: str


class Pipeline:
    """Built once of a whole configuration. Its `dispatch` is a ports.Dispatch."""

    def __init__(
        self,
        tools: Mapping[str, Tool],
        *,
        settings: Mapping[str, config.Tool],
        agents: Mapping[str, config.Agent],
        permissions: config.Permissions,
        clock: Clock,
    ) -> None:
        """A tool that is not enabled is not there. Raises ValueError where a tool's schema is none."""
        known = {
            name: _known(tool, settings.get(name, config.Tool()))
            for name, tool in tools.items()
            if name not in settings or settings[name].enabled
        }
        self._rules = Rules(tools=known, agents=agents, permissions=permissions)
        self._clock = clock

    @property
    def schemas(self) -> tuple[ToolSchema, ...]:
        """What agents may be offered, with the limits of walrus.toml."""
        return tuple(known.schema for known in self._rules.tools.values())

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        """A refusal or the tool's outcome, always for the model to read. Raises only what `request.started` raises."""
        for gate in GATES:
            if refusal := gate(self._rules, request):
                return _result(request.call, refusal.outcome, refusal.text, gate=gate.__name__, rule=refusal.rule)
        known = self._rules.tools[request.call.name]
        await request.started(None)
        # An interrupt may have come while the intent was written; recording cannot be cancelled, so look now.
        await trio.lowlevel.checkpoint_if_cancelled()
        began = self._clock()
        ran = await _execute(known, request)
        return _result(
            request.call,
            ran.outcome,
            ran.text,
            gate=None if ran.outcome == "ok" else "execute",
            cap=known.schema.max_output_bytes,
            duration_ms=max(0, round((self._clock() - began) * 1000)),
        )


def _known(tool: Tool, settings: config.Tool) -> Known:
    schema = replace(
        tool.schema,
        timeout_s=settings.timeout_s or tool.schema.timeout_s,
        max_output_bytes=settings.max_output_bytes or tool.schema.max_output_bytes,
    )
    return Known(tool=tool, schema=schema, validator=compiled(schema))


async def _execute(known: Known, request: ToolRequest) -> Ran:
    """The work, and how it ended. One guard decides here what an exception of a tool means."""
    name, limit = known.schema.name, known.schema.timeout_s
    assert isinstance(request.call.arguments, dict), "validate lets no other arguments pass"
    run = ToolRun(
        session=request.session, agent=request.agent, arguments=request.call.arguments, workspace=request.workspace
    )
    with trio.move_on_after(limit):
        try:
            return Ran("ok", await known.tool.execute(run))
        except ToolFailed as failed:
            return Ran("error", str(failed))
        except Exception:
            log.exception("tool crashed", tool=name, session=request.session, call=request.call.id)
            return Ran("error", f"{name} failed: walrusd met a bug in it. Its effect is unknown. Try another way.")
    return Ran(
        "timeout",
        f"{name} was stopped: it was not done within {limit:g} s. What it did by then is not undone. "
        "Try a smaller step.",
    )


def _result(
    call: ToolCall,
    outcome: Outcome,
    text: str,
    *,
    gate: str | None,
    rule: str | None = None,
    cap: int = MAX_OUTPUT,
    duration_ms: int = 0,
) -> ToolResult:
    output, size = capped(text, cap)
    return ToolResult(
        call_id=call.id,
        name=call.name,
        output=output,
        is_error=outcome != "ok",
        outcome=outcome,
        gate=gate,
        rule=rule,
        truncated=size > cap,
        bytes=size,
        duration_ms=duration_ms,
    )


def capped(text: str, cap: int) -> tuple[str, int]:
    """As much of `text` as fits in `cap` bytes, note of the cut included, and the bytes of the whole.

    What is no UTF-8 (half of a surrogate pair, as in odd file names) becomes "?": no log or wire could carry it.
    """
    whole = text.encode("utf-8", "replace")
    if len(whole) <= cap:
        return whole.decode(), len(whole)
    room = max(0, cap - len(_note(len(whole), len(whole))))
    head = whole[:room].decode("utf-8", "ignore")
    return head + _note(len(head.encode()), len(whole)), len(whole)


def _note(shown: int, whole: int) -> str:
    return f"\n[truncated: the first {shown:,} of {whole:,} bytes are shown]"
