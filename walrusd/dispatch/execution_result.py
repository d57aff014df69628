"""The result of an executed tool call, and the texts for the model about a failure or a timeout."""

import structlog
from msgspec import Struct

from walrus_protocol.content import Outcome
from walrusd.dispatch.bounded_output import BoundedOutput
from walrusd.ports import ToolFailed, ToolRequest

log = structlog.get_logger("walrusd.tool")


class ExecutionResult(Struct, frozen=True, kw_only=True):
    """The outcome of an executed call: `output` is the tool's own; walrusd appends `note` to it."""

    outcome: Outcome
    output: BoundedOutput
    note: str = ""
    duration_ms: int = 0


def error_text(request: ToolRequest, failure: Exception) -> str:
    """Returns the text for the model about an exception of a tool; details of a bug go only to the log."""
    if isinstance(failure, ToolFailed):
        return str(failure)
    name = request.call.name
    log.error("tool_crashed", tool=name, session=request.session, call=request.call.id, exc_info=failure)
    return f"{name} failed because of a bug in it. Its effect is unknown. Try another way."


def timeout_text(name: str, limit_s: float) -> str:
    """Returns the text for the model about a call that reached its deadline."""
    return (
        f"{name} was stopped because it did not finish within {limit_s:g} s. Its effects until then remain. "
        "Try a smaller step."
    )


def milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
