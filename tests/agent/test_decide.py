"""What is owed next, from what has happened."""

from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
    InterruptRequested,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    UserMessage,
)
from walrusd.agent.agent import Agent
from walrusd.agent.decide import REFUSED, TIMED_OUT, AskModel, CallTools, Debt, Rest, decide
from walrusd.session.outline import Outline, advance, stamp

CALL = ToolCall("c", "read", {"path": "a"})
ASKED = (UserMessage(content="go"),)
CALLED = (*ASKED, AssistantMessage(round=1, calls=(CALL,), finish="tool_calls"))
RUNNING = (*CALLED, ToolCallsStart(calls=(CALL,)))
ANSWERED = (*RUNNING, ToolResult(call_id="c", name="read", output="x"))
CALLS_DONE = (*ANSWERED, ToolCallsComplete(count=1))


def owed(*events: Durable, max_iterations: int = 16) -> Debt | None:
    outline = Outline(id=1)
    for event in (SessionCreated(agent="a"), *events):
        outline = advance(outline, stamp(outline, event, 0.0))
    return decide(Agent(name="a", max_iterations=max_iterations), outline)


def test_a_session_at_rest_owes_nothing() -> None:
    assert owed() is None
    assert owed(*ASKED, Done(stop_reason="error")) is None


def test_a_user_message_is_owed_a_model_call() -> None:
    assert owed(*ASKED) == AskModel(1)


def test_calls_are_owed_their_dispatch_until_all_are_answered() -> None:
    assert owed(*CALLED) == CallTools((CALL,), announced=False, asked=1)
    assert owed(*RUNNING) == CallTools((CALL,), announced=True, asked=1)
    assert owed(*ANSWERED) == CallTools((), announced=True, asked=1)
    assert owed(*CALLS_DONE) == AskModel(2)


def test_the_calls_of_the_last_round_are_run_before_the_turn_rests() -> None:
    assert owed(*CALLED, max_iterations=1) == CallTools((CALL,), announced=False, asked=1)
    assert owed(*CALLS_DONE, max_iterations=1) == Rest("max_iterations")


def test_a_final_text_rests_and_an_empty_one_is_no_action() -> None:
    assert owed(*ASKED, AssistantMessage(round=1, content="hello")) == Rest("text_response")
    assert owed(*ASKED, AssistantMessage(round=1, content=" \n")) == Rest("no_action")


def test_a_refusal_of_the_model_is_an_error_that_says_so() -> None:
    assert owed(*ASKED, AssistantMessage(round=1, content="no", finish="refused")) == Rest("error", REFUSED)


def test_a_steer_after_the_final_text_is_owed_one_more_round() -> None:
    answered = (*ASKED, AssistantMessage(round=1, content="hello"))
    assert owed(*answered, UserMessage(content="wait", kind="steer")) == AskModel(2)


def test_an_interrupt_comes_before_every_other_debt() -> None:
    for log in (ASKED, CALLED, RUNNING, CALLS_DONE):
        assert owed(*log, InterruptRequested()) == Rest("interrupted")
    assert owed(*ASKED, InterruptRequested(reason="timeout")) == Rest("interrupted", TIMED_OUT)
