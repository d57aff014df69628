"""How the execution of a call ended, in words that a model can act on."""

import structlog
from msgspec import Struct

from walrus_protocol.content import Outcome
from walrusd.dispatch.bounded_output import BoundedOutput
from walrusd.ports import ToolFailed, ToolRequest

log = structlog.get_logger("walrusd.tool")


class ExecutionResult(Struct, frozen=True, kw_only=True):
    """What became of a tool that was executed: `said` is its own, `note` our word at the end of that."""

    outcome: Outcome
    output: BoundedOutput
    note: str = ""
    duration_ms: int = 0


def error_text(request: ToolRequest, failure: Exception) -> str:
    """What the model is told of an exception that a tool raised. A bug is logged, and the model sees nothing of it."""
    if isinstance(failure, ToolFailed):
        return str(failure)
    name = request.call.name
    log.error("tool crashed", tool=name, session=request.session, call=request.call.id, exc_info=failure)
    return f"{name} failed: walrusd met a bug in it. Its effect is unknown. Try another way."


def timeout_text(name: str, limit_s: float) -> str:
    """What it is told of a deadline."""
    return (
        f"{name} was stopped: it was not done within {limit_s:g} s. What it did by then is not undone. "
        "Try a smaller step."
    )


def milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
