"""Describes in a few words how an interrupted turn and its calls ended."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.crash.side_records import SideRecords
from walrus_protocol.events import AnySessionEvent, Done, ToolResult, ToolStarted, TurnResumed
from walrusd.session.recovery import EFFECT_UNKNOWN, NOT_RUN


def describe_outcome(events: Sequence[AnySessionEvent], records: SideRecords) -> str:
    """Returns "" if the log has no trace of a kill or fault, and no request was refused."""
    return ", ".join([*_describe_turn(events, records), *_describe_calls(events)])


def _describe_turn(events: Sequence[AnySessionEvent], records: SideRecords) -> Iterator[str]:
    ends = {event.error.kind if event.error else event.stop_reason for event in events if isinstance(event, Done)}
    assert ends <= {"text_response", "interrupted", "storage", "crashed_repeatedly"}
    if "crashed_repeatedly" in ends:
        yield "quarantined"
    elif "storage" in ends:
        yield "error: storage"
    elif "interrupted" in ends:
        yield "interrupted"
    elif any(isinstance(event, TurnResumed) for event in events):
        yield "resumed"
    elif records.read("refused"):
        yield "refused, sent again"


def _describe_calls(events: Sequence[AnySessionEvent]) -> Iterator[str]:
    outputs = Counter(event.output for event in events if isinstance(event, ToolResult))
    if unknown := outputs[EFFECT_UNKNOWN]:
        yield f"{unknown} unknown"
    if not_run := outputs[NOT_RUN]:
        yield f"{not_run} not run"
    if reruns := sum(event.attempt > 1 for event in events if isinstance(event, ToolStarted)):
        yield f"{reruns} rerun"
