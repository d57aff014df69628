"""The loop: `step` pays one debt, `run` repeats it. There is no other."""

from collections.abc import Awaitable
from typing import Protocol

from walrus_protocol.content import StopReason, ToolCall, TurnError
from walrus_protocol.events import AssistantMessage, Done, Durable, ToolCallsComplete, ToolCallsStart
from walrusd.agent.agent import Agent, AgentResponse
from walrusd.agent.decide import AskModel, CallTools, Rest, decide, used_up
from walrusd.ports import ModelFailed
from walrusd.session.mend import Draft, mend
from walrusd.session.outline import Outline, advance, stamp


class TurnPorts(Protocol):
    """What the loop needs of the world, bound to one session."""

    @property
    def outline(self) -> Outline: ...

    @property
    def done(self) -> Done | None:
        """How the last turn ended."""

    @property
    def draft(self) -> Draft | None:
        """What the model has said in the round under way."""

    @property
    def steered(self) -> bool:
        """Whether messages wait to steer this turn."""

    def record(self, *events: Durable) -> Awaitable[bool]:
        """Check, persist, apply and publish all of them, or refuse all of them. Cannot be cancelled.

        False, with nothing recorded, where an interrupt has overtaken a `done` among them.
        """

    def ask(self, round_: int) -> Awaitable[AssistantMessage]:
        """One model call. Raises ModelFailed."""

    def call(self, calls: tuple[ToolCall, ...]) -> Awaitable[None]:
        """Dispatch the calls and record the intent and the outcome of each."""

    def take_steers(self) -> Awaitable[bool]:
        """Move the messages that wait to steer this turn into its log; False when there are none.

        Those that an interrupt overtakes stay where they are: the loop decides again.
        """


async def step(agent: Agent, turn: TurnPorts) -> bool:
    """Pay one debt; False when the session owes nothing."""
    match decide(agent, turn.outline):
        case AskModel(round_):
            if not await turn.take_steers():
                await _ask(agent, turn, round_)
        case CallTools(calls, announced, asked):
            if not announced:
                await turn.record(ToolCallsStart(calls=calls))
            await turn.call(calls)
            await turn.record(ToolCallsComplete(count=asked))
        case Rest() as rest:
            if not await _hears_more(agent, turn, rest):
                await turn.record(*_ending(turn, rest.stop_reason, rest.error))
        case None:
            return False
    return True


async def run(agent: Agent, turn: TurnPorts) -> AgentResponse:
    """Repeat `step` until the session owes nothing."""
    steps = 0
    while await step(agent, turn):
        steps += 1
    done = turn.done
    return AgentResponse(
        final_response=done.text if done else "",
        iterations=done.rounds if done else 0,
        stop_reason=done.stop_reason if done else "no_action",
        steps=steps,
    )


async def _ask(agent: Agent, turn: TurnPorts, round_: int) -> None:
    try:
        message = await turn.ask(round_)
    except ModelFailed as failed:
        await turn.record(*_ending(turn, "error", failed.error))
    else:
        await turn.record(message, *_foreseen(agent, turn, message)) or await turn.record(message)


def _foreseen(agent: Agent, turn: TurnPorts, message: AssistantMessage) -> tuple[Done, ...]:
    """The `done` that will be owed after an answer: in one transaction with it, the turn waits for one sync less."""
    if turn.steered:
        return ()
    after = advance(turn.outline, stamp(turn.outline, message, turn.outline.updated_at))
    match decide(agent, after):
        case Rest(stop_reason, error):
            return (Done(stop_reason=stop_reason, error=error),)
        case AskModel() | CallTools() | None:
            return ()


def _ending(turn: TurnPorts, stop_reason: StopReason, error: TurnError | None) -> tuple[Durable, ...]:
    """What ends a turn, in one transaction: the cut-off round made whole, where there is one, and `done`."""
    return (*mend(turn.outline, turn.draft), Done(stop_reason=stop_reason, error=error))


async def _hears_more(agent: Agent, turn: TurnPorts, rest: Rest) -> bool:
    """Whether a steer that waited for the final answer makes one more round."""
    now = turn.outline.turn
    if rest.stop_reason not in {"text_response", "no_action"} or now is None or used_up(agent, now):
        return False
    return await turn.take_steers()
