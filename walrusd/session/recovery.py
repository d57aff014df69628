"""What a cut-off turn needs to be whole again, or to go on: a pure answer in events."""

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
"""How often walrusd may go down while a turn runs: once may be chance, the second time it is taken for the cause."""
MAX_CALL_RUNS = 2
"""How often a call is begun whose tool is idempotent."""
SCHEDULED_KINDS: frozenset[MessageKind] = frozenset({"heartbeat", "schedule"})
"""Turns that do not go on: the ledger tells their tick as cut off, and the next comes by itself."""

EFFECT_UNKNOWN = (
    "Interrupted while it ran: whether it took effect is unknown. Check the state of things before doing it again."
)
NOT_RUN = "Not run: the turn was interrupted before this call started."
RETRY_REPLY_PROMPT = (
    "Your answer was cut off here: walrusd was started anew. Give it again, whole. What tools have done is done."
)
"""Whole: it is then the answer of the turn, and not its last part."""
CONTINUE_PROMPT = "Go on from where this conversation stands, with what was asked for and is not done yet."
"""What a model is told where a person asks for another try."""


class Draft(Struct, frozen=True, kw_only=True):
    """What a model has said so far in the round under way; kept beside the log until its message is in it."""

    turn: int
    round: int
    """0 where no model is being asked."""
    text: str = ""
    thinking: str = ""
    model: str = ""
    suspended: bool = False
    """The daemon was stopped in good order and has set the turn aside: whatever comes then is not the turn's fault."""


def close_open_round(session_state: SessionState, draft: Draft | None) -> list[AnySessionEvent]:
    """The events that close the open round: the draft as an interrupted message, every open call answered."""
    turn = session_state.turn
    if turn is None:
        return []
    if turn.calls:
        return _close_calls(turn)
    if turn.executing:
        return [ToolCallsComplete(count=turn.asked)]
    if draft and is_current(turn, draft):
        return [interrupted_message(draft)]
    return []


OnRestart = Literal["continue", "close"]
RecoveryAction = Literal["end", "give up", "go on"]


def choose_recovery_action(turn: TurnState, draft: Draft | None, on_restart: OnRestart) -> RecoveryAction:
    """What becomes of a turn that an earlier process has left open, together with `left`."""
    if turn.interrupt is not None or on_restart == "close" or turn.kind in SCHEDULED_KINDS:
        return "end"
    if turn.attempt >= MAX_ATTEMPTS and not _was_clean_shutdown(draft):
        return "give up"
    return "go on"


def resume_open_turn(
    session_state: SessionState, draft: Draft | None, is_idempotent: Callable[[str], bool]
) -> list[AnySessionEvent]:
    """The events after which a turn that was left open can go on, as `fate` has it.

    Calls that had begun are closed, and those behind them; what tools that are `idempotent` had begun stays open, and
    so do the calls of a round of which nothing is unsure.
    """
    turn = session_state.turn
    assert turn is not None, "only a turn that is open can go on"
    clean = _was_clean_shutdown(draft)
    resumed = TurnResumed(attempt=turn.attempt if clean else turn.attempt + 1, reason="shutdown" if clean else "crash")
    if draft is None or not is_current(turn, draft):
        return [*_close_uncertain_calls(turn, is_idempotent), resumed]
    said = interrupted_message(draft)
    # Providers refuse a conversation that ends with the assistant.
    asked_again = (
        [] if is_empty_message(said) else [UserMessage(content=RETRY_REPLY_PROMPT, sender="walrusd", kind="resume")]
    )
    return [said, resumed, *asked_again]


def _was_clean_shutdown(draft: Draft | None) -> bool:
    return draft is not None and draft.suspended


def recovered_draft(turn: TurnState, draft: Draft | None) -> Draft | None:
    """What an earlier process has left of the round under way.

    Without a draft the model may have been asked all the same, and what that has cost nobody knows.
    """
    if draft is None and turn.heard:
        return Draft(turn=turn.number, round=turn.rounds + 1)
    return draft


def is_current(turn: TurnState, draft: Draft) -> bool:
    """Whether the draft is of the model call under way, whose message is not in the log yet."""
    return turn.heard and (draft.turn, draft.round) == (turn.number, turn.rounds + 1)


def interrupted_message(draft: Draft) -> AssistantMessage:
    """A reply that was cut off, as a fact, even before its first word: it was asked for, and its price is unknown."""
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
    events.append(ToolCallsComplete(count=turn.asked))
    return events


def _close_uncertain_calls(turn: TurnState, is_idempotent: Callable[[str], bool]) -> list[AnySessionEvent]:
    """Those calls answered whose effect is unknown, and with them those that had not begun: they may build on it."""
    again = {
        call.id for call in turn.calls if is_idempotent(call.name) and 0 < turn.started.count(call.id) < MAX_CALL_RUNS
    }
    if again.issuperset(turn.started):
        return []
    return [_interrupted_result(turn, call) for call in turn.calls if call.id not in again]


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
