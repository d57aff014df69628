"""What a cut-off turn needs to be whole again: a pure answer in events, the same after an interrupt and a crash."""

from msgspec import Struct

from walrus_protocol.events import AssistantMessage, Durable, ToolCallsComplete, ToolCallsStart, ToolResult
from walrusd.session.outline import Outline, Turn

EFFECT_UNKNOWN = (
    "Interrupted while it ran: whether it took effect is unknown. Check the state of things before doing it again."
)
NOT_RUN = "Not run: the turn was interrupted before this call started."


class Draft(Struct, frozen=True, kw_only=True):
    """What a model has said so far in the round under way; kept beside the log until its message is in it."""

    turn: int
    round: int
    text: str = ""
    thinking: str = ""
    model: str = ""


def mend(outline: Outline, draft: Draft | None) -> list[Durable]:
    """The events that close the open round: the draft as an interrupted message, every open call answered."""
    turn = outline.turn
    if turn is None:
        return []
    if turn.calls:
        return _close_calls(turn)
    if turn.executing:
        return [ToolCallsComplete(count=turn.asked)]
    if draft and awaited(turn, draft):
        return [said_so_far(draft)]
    return []


def awaited(turn: Turn, draft: Draft) -> bool:
    """Whether the draft is of the model call under way, whose message is not in the log yet."""
    return turn.heard and (draft.turn, draft.round) == (turn.number, turn.rounds + 1)


def said_so_far(draft: Draft) -> AssistantMessage:
    """A reply that was cut off, as a fact, even before its first word: it was asked for, and its price is unknown."""
    return AssistantMessage(
        round=draft.round,
        content=draft.text,
        thinking=draft.thinking,
        finish="interrupted",
        model=draft.model,
    )


def _close_calls(turn: Turn) -> list[Durable]:
    events: list[Durable] = [] if turn.executing else [ToolCallsStart(calls=turn.calls)]
    for call in turn.calls:
        text = EFFECT_UNKNOWN if call.id in turn.started else NOT_RUN
        events.append(
            ToolResult(
                call_id=call.id,
                name=call.name,
                output=text,
                is_error=True,
                outcome="interrupted",
                bytes=len(text.encode()),
            )
        )
    events.append(ToolCallsComplete(count=turn.asked))
    return events
