"""The agent loop: `step` takes the next step of a turn, `run` repeats it until the turn has ended."""

from collections.abc import Awaitable
from typing import Protocol

from walrus_protocol.content import StopReason, ToolCall, TurnError
from walrus_protocol.events import AnySessionEvent, AssistantMessage, Done, ToolCallsComplete, ToolCallsStart
from walrusd.agent.agent import Agent, AgentResponse
from walrusd.agent.decide import AskModel, CallTools, EndTurn, decide, iterations_exhausted
from walrusd.ports import ModelFailed
from walrusd.session.recovery import Draft, close_open_round
from walrusd.session.session_state import SessionState, apply_event


class TurnContext(Protocol):
    """The operations that the loop needs, bound to one session."""

    @property
    def session_state(self) -> SessionState: ...

    @property
    def done(self) -> Done | None:
        """The `done` event of the last turn, or None if no turn has ended."""

    @property
    def draft(self) -> Draft | None:
        """The reply received so far in the round under way."""

    @property
    def has_steers(self) -> bool:
        """Whether messages are queued to steer this turn."""

    def record(self, *events: AnySessionEvent) -> Awaitable[bool]:
        """Checks, persists, applies and publishes all events, or refuses all of them. Cannot be cancelled.

        Returns False and records nothing if the events contain a `done` and an interrupt was recorded before it.
        """

    def ask_model(self, round_: int) -> Awaitable[AssistantMessage]:
        """Makes one model call. Raises ModelFailed."""

    def call_tools(self, calls: tuple[ToolCall, ...]) -> Awaitable[None]:
        """Dispatches the calls and records the intent and the outcome of each."""

    def take_steers(self) -> Awaitable[bool]:
        """Moves the queued steering messages into the log; returns False if there are none.

        If an interrupt comes first, the messages stay in the queue and the loop decides again.
        """


async def step(agent: Agent, context: TurnContext) -> bool:
    """Takes the next step; returns False if no turn is open."""
    match decide(agent, context.session_state):
        case AskModel(round_):
            if await context.take_steers():
                return True
            try:
                message = await context.ask_model(round_)
            except ModelFailed as failed:
                await context.record(*_closing_events(context, "error", failed.error))
            else:
                await context.record(message, *_immediate_done(agent, context, message)) or await context.record(
                    message
                )
        case CallTools(calls, start_recorded, total):
            if not start_recorded:
                await context.record(ToolCallsStart(calls=calls))
            await context.call_tools(calls)
            await context.record(ToolCallsComplete(count=total))
        case EndTurn() as end:
            if not await _continue_with_steers(agent, context, end):
                await context.record(*_closing_events(context, end.stop_reason, end.error))
        case None:
            return False
    return True


async def run(agent: Agent, context: TurnContext) -> AgentResponse:
    """Repeats `step` until no turn is open."""
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


def _immediate_done(agent: Agent, context: TurnContext, message: AssistantMessage) -> tuple[Done, ...]:
    """Returns the `done` that follows this answer, if any.

    Recording both in one transaction saves one sync.
    """
    if context.has_steers:
        return ()
    # Without its time and its turn, which decide nothing.
    match decide(agent, apply_event(context.session_state, message)):
        case EndTurn(stop_reason, error):
            return (Done(stop_reason=stop_reason, error=error),)
        case AskModel() | CallTools() | None:
            return ()


def _closing_events(
    context: TurnContext, stop_reason: StopReason, error: TurnError | None
) -> tuple[AnySessionEvent, ...]:
    """Returns the events that end a turn in one transaction: those that close an open round, then `done`."""
    return (*close_open_round(context.session_state, context.draft), Done(stop_reason=stop_reason, error=error))


async def _continue_with_steers(agent: Agent, context: TurnContext, end: EndTurn) -> bool:
    """Takes queued steers into a turn that would end; returns whether another round follows."""
    turn = context.session_state.turn
    if end.stop_reason not in {"text_response", "no_action"} or turn is None or iterations_exhausted(agent, turn):
        return False
    return await context.take_steers()
