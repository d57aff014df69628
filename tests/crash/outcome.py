"""In a few words, what became of a turn that was cut off, and of its calls."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.crash.side_records import SideRecords
from walrus_protocol.events import AnySessionEvent, Done, ToolResult, ToolStarted, TurnResumed
from walrusd.session.recovery import EFFECT_UNKNOWN, NOT_RUN


def describe_outcome(events: Sequence[AnySessionEvent], records: SideRecords) -> str:
    """ "" where nothing shows in the log that anything went wrong, and nobody was told."""
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
        yield "went on"
    elif records.read("refused"):
        yield "refused, asked again"


def _describe_calls(events: Sequence[AnySessionEvent]) -> Iterator[str]:
    said = Counter(event.output for event in events if isinstance(event, ToolResult))
    if unknown := said[EFFECT_UNKNOWN]:
        yield f"{unknown} unknown"
    if not_run := said[NOT_RUN]:
        yield f"{not_run} not run"
    if again := sum(event.attempt > 1 for event in events if isinstance(event, ToolStarted)):
        yield f"{again} rerun"
