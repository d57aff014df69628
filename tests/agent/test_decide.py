"""Tests of agent/decide.py: the next step of a turn, given the events of the session."""

from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    InterruptRequested,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    UserMessage,
)
from walrusd.agent.agent import Agent
from walrusd.agent.decide import PROVIDER_REFUSED, TIMED_OUT, AskModel, CallTools, EndTurn, NextStep, decide
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields

CALL = ToolCall("c", "read", {"path": "a"})
MESSAGE_SENT = (UserMessage(content="go"),)
CALLS_REQUESTED = (*MESSAGE_SENT, AssistantMessage(round=1, calls=(CALL,), finish="tool_calls"))
CALLS_STARTED = (*CALLS_REQUESTED, ToolCallsStart(calls=(CALL,)))
RESULT_RECORDED = (*CALLS_STARTED, ToolResult(call_id="c", name="read", output="x"))
CALLS_DONE = (*RESULT_RECORDED, ToolCallsComplete(count=1))


def next_step(*events: AnySessionEvent, max_iterations: int = 16) -> NextStep | None:
    """Returns the decision after these events of a new session."""
    state = SessionState(id=1)
    for event in (SessionCreated(agent="a"), *events):
        state = apply_event(state, fill_derived_fields(state, event, 0.0))
    return decide(Agent(name="a", max_iterations=max_iterations), state)


def test_an_idle_session_has_no_next_step() -> None:
    assert next_step() is None
    assert next_step(*MESSAGE_SENT, Done(stop_reason="error")) is None


def test_a_user_message_is_followed_by_a_model_call() -> None:
    assert next_step(*MESSAGE_SENT) == AskModel(1)


def test_calls_are_dispatched_until_all_have_results() -> None:
    assert next_step(*CALLS_REQUESTED) == CallTools((CALL,), start_recorded=False, total=1)
    assert next_step(*CALLS_STARTED) == CallTools((CALL,), start_recorded=True, total=1)
    assert next_step(*RESULT_RECORDED) == CallTools((), start_recorded=True, total=1)
    assert next_step(*CALLS_DONE) == AskModel(2)


def test_the_calls_of_the_last_round_are_run_before_the_turn_ends() -> None:
    assert next_step(*CALLS_REQUESTED, max_iterations=1) == CallTools((CALL,), start_recorded=False, total=1)
    assert next_step(*CALLS_DONE, max_iterations=1) == EndTurn("max_iterations")


def test_a_final_text_ends_the_turn_and_an_empty_one_is_no_action() -> None:
    assert next_step(*MESSAGE_SENT, AssistantMessage(round=1, content="hello")) == EndTurn("text_response")
    assert next_step(*MESSAGE_SENT, AssistantMessage(round=1, content=" \n")) == EndTurn("no_action")


def test_a_refusal_by_the_model_ends_the_turn_with_provider_refused() -> None:
    assert next_step(*MESSAGE_SENT, AssistantMessage(round=1, content="no", finish="refused")) == EndTurn(
        "error", PROVIDER_REFUSED
    )


def test_a_steer_after_the_final_text_needs_one_more_round() -> None:
    answered = (*MESSAGE_SENT, AssistantMessage(round=1, content="hello"))
    assert next_step(*answered, UserMessage(content="wait", kind="steer")) == AskModel(2)


def test_an_interrupt_comes_before_every_other_step() -> None:
    for log in (MESSAGE_SENT, CALLS_REQUESTED, CALLS_STARTED, CALLS_DONE):
        assert next_step(*log, InterruptRequested()) == EndTurn("interrupted")
    assert next_step(*MESSAGE_SENT, InterruptRequested(reason="timeout")) == EndTurn("interrupted", TIMED_OUT)
