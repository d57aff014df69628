"""How often turns were tried: reckoned from where each life has found them open, and compared with the log."""

from collections.abc import Mapping, Sequence

from tests.crash.notes import LeftOpen, Notes
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
    ToolCallsComplete,
    ToolResult,
    ToolStarted,
    TurnResumed,
)
from walrus_protocol.json import decode
from walrusd.session.mend import ATTEMPTS


def check_attempts(events: Mapping[int, Sequence[Durable]], notes: Notes) -> None:
    """A turn that was taken up once, and found open again before a round of it was whole, is given up; no other is."""
    left = [one for note in notes.read("life") for one in decode(note.value, list[LeftOpen])]
    for session, told in events.items():
        _check({one.seq for one in left if one.session == session}, told)


def _check(found_open: set[int], events: Sequence[Durable]) -> None:
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
            given_up = attempt >= ATTEMPTS
