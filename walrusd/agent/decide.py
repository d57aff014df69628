"""The one pure function that decides: from what has happened to what is owed next."""

from msgspec import Struct

from walrus_protocol.content import StopReason, ToolCall, TurnError
from walrusd.agent.agent import Agent
from walrusd.session.session_state import SessionState, TurnState


class AskModel(Struct, frozen=True):
    round: int


class CallTools(Struct, frozen=True):
    """`announced`: their `tool_calls_start` is recorded already. `asked`: how many there are with those answered."""

    calls: tuple[ToolCall, ...]
    start_recorded: bool
    total: int


class EndTurn(Struct, frozen=True):
    stop_reason: StopReason
    error: TurnError | None = None


NextStep = AskModel | CallTools | EndTurn

TIMED_OUT = TurnError("timeout", "The turn ran out of its time.", "Give it a larger timeout_s, or a smaller task.")
PROVIDER_REFUSED = TurnError(
    "provider_refused", "The model refused to answer.", "Say it in another way, or ask another model."
)


def decide(agent: Agent, session_state: SessionState) -> NextStep | None:
    """What the session owes; None when no turn is open."""
    turn = session_state.turn
    if turn is None:
        return None
    if turn.interrupt is not None:
        return EndTurn("interrupted", TIMED_OUT if turn.interrupt == "timeout" else None)
    if turn.calls or turn.executing:
        return CallTools(turn.calls, start_recorded=turn.executing, total=turn.asked)
    if not turn.heard:
        return _end_turn(turn)
    if iterations_exhausted(agent, turn):
        return EndTurn("max_iterations")
    return AskModel(turn.rounds + 1)


def iterations_exhausted(agent: Agent, turn: TurnState) -> bool:
    """Whether the turn has had its rounds. One whose answer was cut off was not the agent's."""
    return turn.rounds - turn.cut_off >= agent.max_iterations


def _end_turn(turn: TurnState) -> EndTurn:
    if turn.finish == "refused":
        return EndTurn("error", PROVIDER_REFUSED)
    return EndTurn("text_response" if turn.text.strip() else "no_action")
