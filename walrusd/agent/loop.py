"""The loop: `step` pays one debt, `run` repeats it. There is no other."""

from collections.abc import Awaitable
from typing import Protocol

from walrus_protocol.content import StopReason, ToolCall, TurnError
from walrus_protocol.events import AnySessionEvent, AssistantMessage, Done, ToolCallsComplete, ToolCallsStart
from walrusd.agent.agent import Agent, AgentResponse
from walrusd.agent.decide import AskModel, CallTools, EndTurn, decide, iterations_exhausted
from walrusd.ports import ModelFailed
from walrusd.session.recovery import Draft, close_open_round
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields


class TurnContext(Protocol):
    """What the loop needs of the world, bound to one session."""

    @property
    def session_state(self) -> SessionState: ...

    @property
    def done(self) -> Done | None:
        """How the last turn ended."""

    @property
    def draft(self) -> Draft | None:
        """What the model has said in the round under way."""

    @property
    def has_steers(self) -> bool:
        """Whether messages wait to steer this turn."""

    def record(self, *events: AnySessionEvent) -> Awaitable[bool]:
        """Check, persist, apply and publish all of them, or refuse all of them. Cannot be cancelled.

        False, with nothing recorded, where an interrupt has overtaken a `done` among them.
        """

    def ask_model(self, round_: int) -> Awaitable[AssistantMessage]:
        """One model call. Raises ModelFailed."""

    def call_tools(self, calls: tuple[ToolCall, ...]) -> Awaitable[None]:
        """Dispatch the calls and record the intent and the outcome of each."""

    def take_steers(self) -> Awaitable[bool]:
        """Move the messages that wait to steer this turn into its log; False when there are none.

        Those that an interrupt overtakes stay where they are: the loop decides again.
        """


async def step(agent: Agent, context: TurnContext) -> bool:
    """Pay one debt; False when the session owes nothing."""
    match decide(agent, context.session_state):
        case AskModel(round_):
            if not await context.take_steers():
                await _ask_model(agent, context, round_)
        case CallTools(calls, announced, asked):
            if not announced:
                await context.record(ToolCallsStart(calls=calls))
            await context.call_tools(calls)
            await context.record(ToolCallsComplete(count=asked))
        case EndTurn() as rest:
            if not await _continue_with_steers(agent, context, rest):
                await context.record(*_closing_events(context, rest.stop_reason, rest.error))
        case None:
            return False
    return True


async def run(agent: Agent, context: TurnContext) -> AgentResponse:
    """Repeat `step` until the session owes nothing."""
    steps = 0
    while await step(agent, context):
        steps += 1
    done = context.done
    return AgentResponse(
        final_response=done.text if done else "",
        iterations=done.rounds if done else 0,
        stop_reason=done.stop_reason if done else "no_action",
        steps=steps,
    )


async def _ask_model(agent: Agent, context: TurnContext, round_: int) -> None:
    try:
        message = await context.ask_model(round_)
    except ModelFailed as failed:
        await context.record(*_closing_events(context, "error", failed.error))
    else:
        await context.record(message, *_immediate_done(agent, context, message)) or await context.record(message)


def _immediate_done(agent: Agent, context: TurnContext, message: AssistantMessage) -> tuple[Done, ...]:
    """The `done` that will be owed after an answer: in one transaction with it, the turn waits for one sync less."""
    if context.has_steers:
        return ()
    after = apply_event(
        context.session_state, fill_derived_fields(context.session_state, message, context.session_state.updated_at)
    )
    match decide(agent, after):
        case EndTurn(stop_reason, error):
            return (Done(stop_reason=stop_reason, error=error),)
        case AskModel() | CallTools() | None:
            return ()


def _closing_events(
    context: TurnContext, stop_reason: StopReason, error: TurnError | None
) -> tuple[AnySessionEvent, ...]:
    """What ends a turn, in one transaction: the cut-off round made whole, where there is one, and `done`."""
    return (*close_open_round(context.session_state, context.draft), Done(stop_reason=stop_reason, error=error))


async def _continue_with_steers(agent: Agent, context: TurnContext, end: EndTurn) -> bool:
    """Whether a steer that waited for the final answer makes one more round."""
    now = context.session_state.turn
    if end.stop_reason not in {"text_response", "no_action"} or now is None or iterations_exhausted(agent, now):
        return False
    return await context.take_steers()
