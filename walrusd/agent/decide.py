"""Decides the next step of a turn, from the session's state alone. A pure function without I/O."""

from msgspec import Struct

from walrus_protocol.content import StopReason, ToolCall, TurnError
from walrusd.agent.agent import Agent
from walrusd.session.session_state import SessionState, TurnState


class AskModel(Struct, frozen=True):
    """Call the model for round number `round`, counted from 1."""

    round: int


class CallTools(Struct, frozen=True):
    """Run these calls. `total` also counts the calls of the round that have a result already.

    `start_recorded` is True if `tool_calls_start` is already in the log.
    """

    calls: tuple[ToolCall, ...]
    start_recorded: bool
    total: int


class EndTurn(Struct, frozen=True):
    """Record the turn's `done` with this stop reason and error."""

    stop_reason: StopReason
    error: TurnError | None = None


NextStep = AskModel | CallTools | EndTurn

TIMED_OUT = TurnError("timeout", "The turn reached its time limit.", "Give it a larger timeout_s, or a smaller task.")
PROVIDER_REFUSED = TurnError(
    "provider_refused", "The model refused to answer.", "Rephrase the message, or use another model."
)


def decide(agent: Agent, session_state: SessionState) -> NextStep | None:
    """Returns the next step of the open turn, or None if no turn is open."""
    turn = session_state.turn
    if turn is None:
        return None
    if turn.interrupt is not None:
        return EndTurn("interrupted", TIMED_OUT if turn.interrupt == "timeout" else None)
    if turn.calls or turn.executing:
        return CallTools(turn.calls, start_recorded=turn.executing, total=turn.requested_calls)
    if not turn.needs_model:
        return _end_turn(turn)
    if iterations_exhausted(agent, turn):
        return EndTurn("max_iterations")
    return AskModel(turn.rounds + 1)


def iterations_exhausted(agent: Agent, turn: TurnState) -> bool:
    """Returns whether the turn has used its rounds. Rounds whose answer was cut off do not count."""
    return turn.rounds - turn.interrupted_rounds >= agent.max_iterations


def _end_turn(turn: TurnState) -> EndTurn:
    if turn.finish == "refused":
        return EndTurn("error", PROVIDER_REFUSED)
    return EndTurn("text_response" if turn.text.strip() else "no_action")
