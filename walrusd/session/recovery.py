"""Computes the events that close a turn that was cut off, or that let it continue.

Pure functions, without I/O.
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from walrus_protocol.content import MessageKind, ToolCall
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    TurnResumed,
    UserMessage,
)
from walrusd.session.message_tree import is_empty_message
from walrusd.session.session_state import SessionState, TurnState

MAX_ATTEMPTS = 2
"""Maximum starts of a turn: one crash of walrusd may be chance, a second is attributed to the turn."""
MAX_CALL_RUNS = 2
"""Maximum starts of a tool call whose tool is idempotent."""
SCHEDULED_KINDS: frozenset[MessageKind] = frozenset({"heartbeat", "schedule"})
"""Kinds of turns that are not resumed.

The ledger records their tick as interrupted, and the next tick comes at its time.
"""

EFFECT_UNKNOWN = (
    "Interrupted while running. Whether it took effect is unknown. Check the current state before running it again."
)
NOT_RUN = "Not run: the turn was interrupted before this call started."
RETRY_REPLY_PROMPT = (
    "Your answer was cut off here because walrusd was restarted. Give the complete answer again. "
    "Tool calls that have finished remain done."
)
"""The message to a model whose answer a restart cut off.

A complete answer becomes the answer of the turn.
"""
CONTINUE_PROMPT = "Continue this conversation from here. Do what was asked for and is not done yet."
"""The message to a model when a person resumes a session."""


class Draft(Struct, frozen=True, kw_only=True):
    """The partial reply of the round under way; stored beside the log until its message is in the log."""

    turn: int
    round: int
    """The round; 0 if no model call is under way."""
    text: str = ""
    thinking: str = ""
    model: str = ""
    suspended: bool = False
    """True if a clean shutdown suspended the turn; this does not count as a crash of the turn."""


def close_open_round(session_state: SessionState, draft: Draft | None) -> list[AnySessionEvent]:
    """Returns the events that close the open round.

    The draft becomes an interrupted message, and every call gets a result.
    """
    turn = session_state.turn
    if turn is None:
        return []
    if turn.calls:
        return _close_calls(turn)
    if turn.executing:
        return [ToolCallsComplete(count=turn.requested_calls)]
    if draft and is_current(turn, draft):
        return [interrupted_message(draft)]
    return []


OnRestart = Literal["continue", "close"]
RecoveryAction = Literal["end", "give up", "continue"]


def choose_recovery_action(turn: TurnState, draft: Draft | None, on_restart: OnRestart) -> RecoveryAction:
    """Decides whether a turn that an earlier process left open ends, is given up, or continues."""
    if turn.interrupt is not None or on_restart == "close" or turn.kind in SCHEDULED_KINDS:
        return "end"
    if turn.attempt >= MAX_ATTEMPTS and not _was_clean_shutdown(draft):
        return "give up"
    return "continue"


def resume_open_turn(
    session_state: SessionState, draft: Draft | None, is_idempotent: Callable[[str], bool]
) -> list[AnySessionEvent]:
    """Returns the events after which an open turn can continue.

    Calls that had started are closed, together with the calls that had not. Started calls of idempotent tools stay
    open, and so do all calls of a round in which every outcome is known.
    """
    turn = session_state.turn
    assert turn is not None, "only an open turn can continue"
    clean = _was_clean_shutdown(draft)
    resumed = TurnResumed(attempt=turn.attempt if clean else turn.attempt + 1, reason="shutdown" if clean else "crash")
    if draft is None or not is_current(turn, draft):
        return [*_close_uncertain_calls(turn, is_idempotent), resumed]
    message = interrupted_message(draft)
    # Providers refuse a conversation that ends with the assistant.
    retry_prompt = (
        [] if is_empty_message(message) else [UserMessage(content=RETRY_REPLY_PROMPT, sender="walrusd", kind="resume")]
    )
    return [message, resumed, *retry_prompt]


def _was_clean_shutdown(draft: Draft | None) -> bool:
    return draft is not None and draft.suspended


def recovered_draft(turn: TurnState, draft: Draft | None) -> Draft | None:
    """Returns the draft that an earlier process left of the round under way.

    If it stored none, the model may have been called anyway, at an unknown cost; then the draft is empty.
    """
    if draft is None and turn.needs_model:
        return Draft(turn=turn.number, round=turn.rounds + 1)
    return draft


def is_current(turn: TurnState, draft: Draft) -> bool:
    """Returns whether the draft belongs to the model call under way, whose message is not in the log yet."""
    return turn.needs_model and (draft.turn, draft.round) == (turn.number, turn.rounds + 1)


def interrupted_message(draft: Draft) -> AssistantMessage:
    """Returns the event of a reply that was cut off, even if it is empty.

    It was requested, and its cost is unknown.
    """
    return AssistantMessage(
        round=draft.round,
        content=draft.text,
        thinking=draft.thinking,
        finish="interrupted",
        model=draft.model,
    )


def _close_calls(turn: TurnState) -> list[AnySessionEvent]:
    events: list[AnySessionEvent] = [] if turn.executing else [ToolCallsStart(calls=turn.calls)]
    events += [_interrupted_result(turn, call) for call in turn.calls]
    events.append(ToolCallsComplete(count=turn.requested_calls))
    return events


def _close_uncertain_calls(turn: TurnState, is_idempotent: Callable[[str], bool]) -> list[AnySessionEvent]:
    """Returns results that close the calls with an unknown effect, and those that had not started.

    The latter may depend on the unknown effect.
    """
    repeatable = {
        call.id for call in turn.calls if is_idempotent(call.name) and 0 < turn.started.count(call.id) < MAX_CALL_RUNS
    }
    if repeatable.issuperset(turn.started):
        return []
    return [_interrupted_result(turn, call) for call in turn.calls if call.id not in repeatable]


def _interrupted_result(turn: TurnState, call: ToolCall) -> ToolResult:
    text = EFFECT_UNKNOWN if call.id in turn.started else NOT_RUN
    return ToolResult(
        call_id=call.id,
        name=call.name,
        output=text,
        is_error=True,
        outcome="interrupted",
        bytes=len(text.encode()),
    )
