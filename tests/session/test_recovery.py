"""Tests of session/recovery.py: turns that are cut off at every event, with every draft."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.call_pairing import has_paired_calls
from tests.fakes.event_strategies import valid_logs
from walrus_protocol.content import Assistant, ToolCall, ToolOutput, User
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    InterruptRequested,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    TurnResumed,
    UserMessage,
)
from walrusd.agent.agent import Agent
from walrusd.agent.decide import AskModel, CallTools, EndTurn, decide
from walrusd.session.recovery import (
    MAX_ATTEMPTS,
    RETRY_REPLY_PROMPT,
    Draft,
    OnRestart,
    choose_recovery_action,
    close_open_round,
    interrupted_message,
    recovered_draft,
    resume_open_turn,
)
from walrusd.session.session import Session
from walrusd.session.session_state import TurnState, fill_derived_fields

WALRUS = Agent(name="walrus", max_iterations=1000)
READ, ALSO, WRITE = (ToolCall(f"c{n}", name, {}) for n, name in enumerate(("read", "read", "write")))
CALLS_STARTED = AssistantMessage(round=1, calls=(READ, ALSO, WRITE)), ToolCallsStart(calls=(READ, ALSO, WRITE))


def record(*events: AnySessionEvent) -> Session:
    """Returns a session with an open turn, after these events of it."""
    session = Session(1)
    for ts, event in enumerate((SessionCreated(agent="a"), UserMessage(content="go"), *events)):
        session.apply(fill_derived_fields(session.state, event, float(ts)))
    return session


def add(session: Session, *events: AnySessionEvent) -> None:
    for event in events:
        session.apply(fill_derived_fields(session.state, event, 99.0))


def tool_started(call: ToolCall, attempt: int = 1) -> ToolStarted:
    return ToolStarted(call_id=call.id, name=call.name, attempt=attempt)


def tool_result(call: ToolCall) -> ToolResult:
    return ToolResult(call_id=call.id, name=call.name, output="seen")


def is_read_tool(tool: str) -> bool:
    return tool == "read"


def is_no_tool(_: str) -> bool:
    return False


def open_turn(session: Session) -> TurnState:
    assert session.turn is not None
    return session.turn


@st.composite
def interrupted_sessions(draw: st.DrawFn) -> tuple[Session, Draft | None]:
    """Draws a session that was cut off within a turn, and the draft stored beside its log."""
    log = draw(valid_logs().filter(lambda log: any(event.turn for event in log)))
    inside = [n for n, event in enumerate(log, 1) if event.turn is not None and not isinstance(event, Done)]
    session = Session(log[0].session or 0)
    for event in log[: draw(st.sampled_from(inside))]:
        session.apply(event)
    turn = open_turn(session)
    text = draw(st.sampled_from(["", "so far"]))
    suspended = draw(st.booleans())
    drafts = [
        None,
        Draft(turn=turn.number, round=turn.rounds + 1, text=text, suspended=suspended),
        Draft(turn=turn.number, round=0, suspended=True),
    ]
    return session, recovered_draft(turn, draw(st.sampled_from(drafts)))


@given(interrupted_sessions(), st.sampled_from([is_read_tool, is_no_tool]))
def test_a_turn_cut_off_anywhere_can_be_resumed_to_its_done(
    cut: tuple[Session, Draft | None], idempotent: Callable[[str], bool]
) -> None:
    session, draft = cut
    add(session, *resume_open_turn(session.state, draft, idempotent))
    while (turn := session.turn) is not None:
        match decide(WALRUS, session.state):
            case AskModel(round_):
                assert has_paired_calls(session.history.messages)
                assert not isinstance(session.history.messages[-1], Assistant), "providers refuse that"
                add(session, AssistantMessage(round=round_, content="done"))
            case CallTools(calls, start_recorded, total):
                add(session, *[] if start_recorded else [ToolCallsStart(calls=calls)])
                add(session, *map(tool_result, calls), ToolCallsComplete(count=total))
            case EndTurn(stop_reason, error):
                add(session, *close_open_round(session.state, None) if turn.interrupt else [])
                add(session, Done(stop_reason=stop_reason, error=error))
            case None:
                raise AssertionError("an open turn always has a next step")
    assert has_paired_calls(session.history.messages)


@given(interrupted_sessions())
def test_a_turn_cut_off_anywhere_can_be_ended_at_once(cut: tuple[Session, Draft | None]) -> None:
    session, draft = cut
    add(session, *close_open_round(session.state, draft), Done(stop_reason="interrupted"))
    assert has_paired_calls(session.history.messages)


def test_an_answer_that_was_cut_off_is_recorded_and_requested_again() -> None:
    session = record()
    add(session, *resume_open_turn(session.state, Draft(turn=1, round=1, text="Once up"), is_no_tool))
    assert session.history.messages == [
        User("go"),
        Assistant(content="Once up"),
        User(f"From walrusd:\n{RETRY_REPLY_PROMPT}"),
    ]
    assert decide(Agent(name="a", max_iterations=1), session.state) == AskModel(2), "a cut-off round does not count"


def test_an_empty_reply_that_was_cut_off_is_requested_again_and_has_an_unknown_cost() -> None:
    session = record()
    events = resume_open_turn(session.state, recovered_draft(open_turn(session), None), is_no_tool)
    assert events == [AssistantMessage(round=1, finish="interrupted"), TurnResumed(attempt=2, reason="crash")]
    add(session, *events)
    assert (session.history.messages, session.state.cost_usd) == ([User("go")], None)
    assert decide(WALRUS, session.state) == AskModel(2)


def test_a_model_that_was_not_called_before_a_clean_shutdown_costs_nothing() -> None:
    session = record()
    suspended = Draft(turn=1, round=0, suspended=True)
    assert resume_open_turn(session.state, recovered_draft(open_turn(session), suspended), is_no_tool) == [
        TurnResumed(attempt=1, reason="shutdown")
    ]


def test_calls_that_had_not_started_are_run() -> None:
    session = record(*CALLS_STARTED)
    add(session, *resume_open_turn(session.state, None, is_no_tool))
    assert decide(WALRUS, session.state) == CallTools((READ, ALSO, WRITE), start_recorded=True, total=3)


def test_no_call_is_run_after_a_call_whose_effect_is_unknown() -> None:
    session = record(*CALLS_STARTED, tool_started(READ), tool_result(READ), tool_started(ALSO))
    results = [event for event in resume_open_turn(session.state, None, is_no_tool) if isinstance(event, ToolResult)]
    assert [(event.call_id, event.outcome, "unknown" in event.output) for event in results] == [
        ("c1", "interrupted", True),
        ("c2", "interrupted", False),
    ]


def test_a_started_call_is_run_once_more_if_its_tool_is_idempotent() -> None:
    session = record(*CALLS_STARTED, tool_started(READ), tool_started(ALSO), tool_result(ALSO))
    add(session, *resume_open_turn(session.state, None, is_read_tool))
    assert decide(WALRUS, session.state) == CallTools((READ, WRITE), start_recorded=True, total=3)
    add(session, tool_started(READ, 2))
    results = [event for event in resume_open_turn(session.state, None, is_read_tool) if isinstance(event, ToolResult)]
    assert [(event.call_id, "unknown" in event.output) for event in results] == [("c0", True), ("c2", False)]


def test_next_to_an_unrepeatable_call_only_idempotent_calls_are_run_again() -> None:
    session = record(*CALLS_STARTED, tool_started(WRITE), tool_started(READ))
    add(session, *resume_open_turn(session.state, None, is_read_tool))
    assert decide(WALRUS, session.state) == CallTools((READ,), start_recorded=True, total=3)
    add(session, tool_started(READ, 2), tool_result(READ), ToolCallsComplete(count=3))
    assert [message.is_error for message in session.history.messages if isinstance(message, ToolOutput)] == [
        False,
        True,
        True,
    ]


def test_only_crashes_count_as_attempts_and_a_complete_round_resets_the_count() -> None:
    suspended = Draft(turn=1, round=0, suspended=True)
    session = record()
    assert open_turn(session).attempt == 1
    add(session, *resume_open_turn(session.state, suspended, is_no_tool))
    assert open_turn(session).attempt == 1
    add(session, *resume_open_turn(session.state, None, is_no_tool))
    assert open_turn(session).attempt == MAX_ATTEMPTS
    closed = ToolResult(call_id="c0", name="read", output="", outcome="interrupted")
    interrupted_round, complete_round = (record(TurnResumed(attempt=2)) for _ in range(2))
    for each, result in ((interrupted_round, closed), (complete_round, tool_result(READ))):
        add(each, AssistantMessage(round=1, calls=(READ,)), ToolCallsStart(calls=(READ,)), tool_started(READ), result)
        add(each, ToolCallsComplete(count=1))
    assert (open_turn(interrupted_round).attempt, open_turn(complete_round).attempt) == (2, 1)
    complete, cut_off = AssistantMessage(round=1, content="So."), interrupted_message(PARTIAL_DRAFT)
    attempts = [open_turn(record(TurnResumed(attempt=2), answer)).attempt for answer in (complete, cut_off)]
    assert attempts == [1, 2], "also without calls, because a steer may continue the turn"


CLEAN_SHUTDOWN_DRAFT = Draft(turn=1, round=0, suspended=True)
PARTIAL_DRAFT = Draft(turn=1, round=1, text="so far")


@pytest.mark.parametrize(
    ("events", "draft", "on_restart", "action"),
    [
        ([], PARTIAL_DRAFT, "continue", "continue"),
        ([], PARTIAL_DRAFT, "close", "end"),
        ([TurnResumed(attempt=2)], PARTIAL_DRAFT, "continue", "give up"),
        ([TurnResumed(attempt=2)], CLEAN_SHUTDOWN_DRAFT, "continue", "continue"),
        ([TurnResumed(attempt=2)], PARTIAL_DRAFT, "close", "end"),
        ([InterruptRequested()], CLEAN_SHUTDOWN_DRAFT, "continue", "end"),
        ([TurnResumed(attempt=2), InterruptRequested()], PARTIAL_DRAFT, "continue", "end"),
    ],
)
def test_an_open_turn_goes_on_unless_it_was_interrupted_or_crashed_repeatedly(
    events: list[AnySessionEvent], draft: Draft, on_restart: OnRestart, action: str
) -> None:
    assert choose_recovery_action(open_turn(record(*events)), draft, on_restart) == action


def test_an_interrupted_heartbeat_turn_is_closed_not_resumed() -> None:
    session = Session(1)
    add(session, SessionCreated(agent="a"), UserMessage(content="tick", kind="heartbeat"))
    assert choose_recovery_action(open_turn(session), CLEAN_SHUTDOWN_DRAFT, "continue") == "end"
