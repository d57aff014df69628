"""Checks the effects of the tools, as lines in the trace file, against the calls in the log."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from walrus_protocol.content import ToolCall
from walrus_protocol.events import AnySessionEvent, AssistantMessage, ToolResult, ToolStarted
from walrusd.session.recovery import EFFECT_UNKNOWN, MAX_CALL_RUNS, NOT_RUN

IDEMPOTENT = {"count"}
"""Names of the idempotent tools; their calls may run MAX_CALL_RUNS times."""


def check_calls(events: Sequence[AnySessionEvent], trace: Path) -> None:
    """Raises AssertionError unless each call has one result that agrees with its effects.

    No call takes effect twice unless its tool is idempotent, and none without a `tool_started` in the log.
    """
    calls = [call for event in events if isinstance(event, AssistantMessage) for call in event.calls]
    results = {event.call_id: event for event in events if isinstance(event, ToolResult)}
    result_counts = Counter(event.call_id for event in events if isinstance(event, ToolResult))
    assert result_counts == Counter(call.id for call in calls)
    assert max(result_counts.values(), default=1) == 1
    started = Counter(event.call_id for event in events if isinstance(event, ToolStarted))
    effects = Counter(trace.read_text().splitlines())
    assert set(effects) <= {_trace_line(call) for call in calls}
    for call in calls:
        _check_call(call, results[call.id], started[call.id], effects[_trace_line(call)])


def _check_call(call: ToolCall, result: ToolResult, started: int, effects: int) -> None:
    max_runs = MAX_CALL_RUNS if call.name in IDEMPOTENT else 1
    assert effects <= started <= max_runs, f"{call.name} ran {effects} times"
    match result.outcome:
        case "ok":
            assert effects >= 1
        case "denied":
            assert started == 0
        case "interrupted":
            assert result.output == (EFFECT_UNKNOWN if started else NOT_RUN)
        case other:
            raise AssertionError(f"{call.name}: {other}")


def _trace_line(call: ToolCall) -> str:
    """Returns the line that a call writes to the trace file."""
    assert isinstance(call.arguments, dict)
    return str(call.arguments.get("mark", call.name))
