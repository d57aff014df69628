"""Checks of turns in a log, over restarts: their order, attempts, results and ends."""

from collections.abc import Collection, Sequence

from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    InterruptRequested,
    Rewound,
    SessionClosed,
    SessionCreated,
    ToolCallsComplete,
    ToolResult,
    TurnResumed,
    UserMessage,
)
from walrusd.session.recovery import OnRestart

MAX_ATTEMPTS = 2
"""Maximum number of times that a turn may be running when walrusd crashes."""


def is_from_client(message: UserMessage) -> bool:
    """Returns whether a client sent it; otherwise walrusd asks again for an answer that was cut off."""
    assert message.kind in {"message", "steer", "resume"}
    assert message.sender == "" or (message.kind, message.sender) == ("resume", "walrusd")
    return message.sender == ""


def check_turns(log: Sequence[AnySessionEvent]) -> None:
    """Checks all turns in the log of a session."""
    _check_order(log)
    for turn in {event.turn for event in log} - {None}:
        _check_turn([event for event in log if event.turn == turn])


def _check_order(log: Sequence[AnySessionEvent]) -> None:
    """Checks that turns count from 1 in spite of rewinds and end once, and each call has one result."""
    turns, is_open = 0, False
    calls: list[str] = []
    for event in log:
        match event:
            case UserMessage() if not is_open:
                turns, is_open = turns + 1, True
            case AssistantMessage(calls=new_calls):
                assert calls == []
                calls = [call.id for call in new_calls]
            case ToolResult(call_id=call_id):
                calls.remove(call_id)
            case SessionCreated() | Rewound() | SessionClosed():
                assert not is_open
            case _:
                pass
        assert event.turn == (turns if is_open else None)
        if isinstance(event, Done | ToolCallsComplete):
            assert calls == []
            is_open = not isinstance(event, Done)


def _check_turn(turn: Sequence[AnySessionEvent]) -> None:
    attempt, closed = 1, False
    for event in turn:
        match event:
            case TurnResumed(reason="crash"):
                attempt += 1
                assert event.attempt == attempt <= MAX_ATTEMPTS, "a turn is not tried a third time"
            case TurnResumed():
                assert event.attempt == attempt, "a clean stop does not count as an attempt"
            case ToolResult(outcome="interrupted"):
                closed = True
            case ToolCallsComplete():
                attempt, closed = attempt if closed else 1, False
            case AssistantMessage(calls=(), finish=finish) if finish != "interrupted":
                attempt = 1
            case Done(error=error) if error and error.kind == "crashed_repeatedly":
                assert attempt == MAX_ATTEMPTS, "a turn is given up only after the last attempt"
            case _:
                pass
    if isinstance(done := turn[-1], Done) and done.stop_reason == "text_response":
        answer = [event for event in turn if isinstance(event, AssistantMessage)][-1]
        assert answer.finish == "stop", "an answer that was cut off is asked for again"
    if any(isinstance(event, InterruptRequested) for event in turn):
        assert all(event.stop_reason == "interrupted" for event in turn if isinstance(event, Done)), (
            "an interrupted turn ends as interrupted"
        )


def running_turns(events: Sequence[AnySessionEvent]) -> set[tuple[int | None, int | None]]:
    """Returns (session, turn) of the turns that were running when a run with these events lost its power."""
    started = {(event.session, event.turn) for event in events if isinstance(event, UserMessage | TurnResumed)}
    return started - {(event.session, event.turn) for event in events if isinstance(event, Done)}


def check_restart(
    events: Sequence[AnySessionEvent],
    on_restart: OnRestart,
    *,
    crashed: bool,
    interrupted_turns: Collection[tuple[int | None, int | None]],
) -> None:
    """Checks the events of one run against `on_restart` and the crashes before it.

    `interrupted_turns`: the turns that were running at a power cut right before this run.
    """
    resumed = [event for event in events if isinstance(event, TurnResumed)]
    if on_restart == "close":
        assert not resumed
    else:
        assert not [event for event in events if isinstance(event, InterruptRequested) and event.reason == "shutdown"]
    for event in resumed:
        assert event.reason == "crash" or (event.session, event.turn) not in interrupted_turns, "every crash is counted"
    if not crashed:
        assert not [event for event in resumed if event.reason == "crash"]
        errors = {event.error.kind for event in events if isinstance(event, Done) and event.error}
        assert "crashed_repeatedly" not in errors
