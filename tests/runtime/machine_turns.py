"""How turns go over restarts: what a log may say of them, and what it may not."""

from collections.abc import Sequence

from walrus_protocol.events import (
    Done,
    Durable,
    InterruptRequested,
    ToolCallsComplete,
    ToolResult,
    TurnResumed,
    UserMessage,
)
from walrusd.session.mend import ATTEMPTS, OnRestart


def by_a_client(message: UserMessage) -> bool:
    """Whether somebody has sent it; else walrusd asks for an answer that was cut off."""
    assert message.kind in {"message", "steer", "resume"}
    assert (message.kind == "resume") == (message.sender == "walrusd")
    return message.kind != "resume"


def check_turns(log: Sequence[Durable]) -> None:
    """Of a session. Each event of a turn has its number."""
    for turn in {event.turn for event in log} - {None}:
        _check([event for event in log if event.turn == turn])


def _check(turn: Sequence[Durable]) -> None:
    attempt, closed = 1, False
    for event in turn:
        match event:
            case TurnResumed(reason="crash"):
                attempt += 1
                assert event.attempt == attempt <= ATTEMPTS, "nothing is tried a third time"
            case TurnResumed():
                assert event.attempt == attempt, "a stop is no attempt"
            case ToolResult(outcome="interrupted"):
                closed = True
            case ToolCallsComplete():
                attempt, closed = attempt if closed else 1, False
            case Done(error=error) if error and error.kind == "crashed_repeatedly":
                assert attempt == ATTEMPTS, "it had not been tried as often as that"
            case _:
                pass
    if any(isinstance(event, InterruptRequested) for event in turn):
        assert all(event.stop_reason == "interrupted" for event in turn if isinstance(event, Done)), "it sticks"


def check_restart(told: Sequence[Durable], on_restart: OnRestart, *, crashed: bool) -> None:
    """What one life told: as it was configured, and of no crash where there was none."""
    resumed = [event for event in told if isinstance(event, TurnResumed)]
    if on_restart == "close":
        assert not resumed
    else:
        assert not [event for event in told if isinstance(event, InterruptRequested) and event.reason == "shutdown"]
    if not crashed:
        assert not [event for event in resumed if event.reason == "crash"]
        errors = {event.error.kind for event in told if isinstance(event, Done) and event.error}
        assert "crashed_repeatedly" not in errors
