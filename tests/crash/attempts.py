"""How often turns were tried: reckoned from where each life has found them open, and compared with the log."""

from collections.abc import Mapping, Sequence

from tests.crash.side_records import OpenTurn, SideRecords
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    ToolCallsComplete,
    ToolResult,
    ToolStarted,
    TurnResumed,
)
from walrus_protocol.json import decode
from walrusd.session.recovery import MAX_ATTEMPTS


def check_attempts(events: Mapping[int, Sequence[AnySessionEvent]], records: SideRecords) -> None:
    """A turn that was taken up once, and found open again before a round of it was whole, is given up; no other is."""
    left = [one for note in records.read("life") for one in decode(note.value, list[OpenTurn])]
    for session, told in events.items():
        _check_session({one.seq for one in left if one.session == session}, told)


def _check_session(found_open: set[int], events: Sequence[AnySessionEvent]) -> None:
    attempt, unsure, given_up = 1, False, False
    for seq, event in enumerate(events, 1):
        match event:
            case TurnResumed():
                attempt += 1
                assert not given_up
                assert (event.attempt, event.reason) == (attempt, "crash")
            case ToolStarted():
                assert not given_up, "nothing runs for a third time by itself"
            case AssistantMessage(finish=finish, calls=calls):
                assert not given_up or finish == "interrupted"
                attempt = attempt if calls or finish == "interrupted" else 1
            case ToolResult(outcome="interrupted"):
                unsure = True
            case ToolCallsComplete():
                attempt, unsure = attempt if unsure else 1, False
            case Done(error=error):
                assert given_up == (error is not None and error.kind == "crashed_repeatedly")
                attempt, unsure, given_up = 1, False, False
            case _:
                pass
        if seq in found_open:
            given_up = attempt >= MAX_ATTEMPTS
