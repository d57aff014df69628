"""Checks the attempts of each turn in the log against the turns found open by each start."""

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
    """Raises AssertionError if a turn has a wrong attempt number, or is wrongly given up.

    A turn is given up if it was resumed once and then found open again before one of its rounds was complete.
    """
    open_turns = [turn for record in records.read("start") for turn in decode(record.value, list[OpenTurn])]
    for session, session_events in events.items():
        _check_session({turn.seq for turn in open_turns if turn.session == session}, session_events)


def _check_session(found_open: set[int], events: Sequence[AnySessionEvent]) -> None:
    attempt, uncertain, given_up = 1, False, False
    for seq, event in enumerate(events, 1):
        match event:
            case TurnResumed():
                attempt += 1
                assert not given_up
                assert (event.attempt, event.reason) == (attempt, "crash")
            case ToolStarted():
                assert not given_up, "no tool is started by a third attempt"
            case AssistantMessage(finish=finish, calls=calls):
                assert not given_up or finish == "interrupted"
                attempt = attempt if calls or finish == "interrupted" else 1
            case ToolResult(outcome="interrupted"):
                uncertain = True
            case ToolCallsComplete():
                attempt, uncertain = attempt if uncertain else 1, False
            case Done(error=error):
                assert given_up == (error is not None and error.kind == "crashed_repeatedly")
                attempt, uncertain, given_up = 1, False, False
            case _:
                pass
        if seq in found_open:
            given_up = attempt >= MAX_ATTEMPTS
