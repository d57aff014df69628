"""The one pure function that decides: from what has happened to what is owed next."""

from msgspec import Struct

from walrus_protocol.content import StopReason, ToolCall, TurnError
from walrusd.agent.agent import Agent
from walrusd.session.outline import Outline, Turn


class AskModel(Struct, frozen=True):
    round: int


class CallTools(Struct, frozen=True):
    """`announced`: their `tool_calls_start` is recorded already. `asked`: how many there are with those answered."""

    calls: tuple[ToolCall, ...]
    announced: bool
    asked: int


class Rest(Struct, frozen=True):
    stop_reason: StopReason
    error: TurnError | None = None


Debt = AskModel | CallTools | Rest

TIMED_OUT = TurnError("timeout", "The turn ran out of its time.", "Give it a larger timeout_s, or a smaller task.")
REFUSED = TurnError("provider_refused", "The model refused to answer.", "Say it in another way, or ask another model.")


def decide(agent: Agent, session: Outline) -> Debt | None:
    """What the session owes; None when no turn is open."""
    turn = session.turn
    if turn is None:
        return None
    if turn.interrupt is not None:
        return Rest("interrupted", TIMED_OUT if turn.interrupt == "timeout" else None)
    if turn.calls or turn.executing:
        return CallTools(turn.calls, announced=turn.executing, asked=turn.asked)
    if not turn.heard:
        return _rest(turn)
    if used_up(agent, turn):
        return Rest("max_iterations")
    return AskModel(turn.rounds + 1)


def used_up(agent: Agent, turn: Turn) -> bool:
    """Whether the turn has had its rounds. One whose answer was cut off was not the agent's."""
    return turn.rounds - turn.cut_off >= agent.max_iterations


def _rest(turn: Turn) -> Rest:
    if turn.finish == "refused":
        return Rest("error", REFUSED)
    return Rest("text_response" if turn.text.strip() else "no_action")
