"""Tests of session/session_state.py: folding complete and cut-off logs, refusing invalid events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes.call_pairing import has_paired_calls
from tests.fakes.event_strategies import valid_logs
from walrus_protocol.content import Assistant, ToolCall, ToolOutput, User
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    InterruptRequested,
    SessionClosed,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
    decode_row,
    encode,
)
from walrusd.agent.agent import Agent
from walrusd.agent.decide import decide
from walrusd.ports import EncodedMessage
from walrusd.session.recovery import Draft, close_open_round
from walrusd.session.session import Session
from walrusd.session.session_state import SessionState, TurnState, apply_event, decode, fill_derived_fields
from walrusd.session.session_state import encode as encode_state
from walrusd.session.transitions import InvalidTransition

READ = ToolCall("c1", "read", {"path": "a"})
WRITE = ToolCall("c2", "write", {"path": "b"})


def replay(log: list[AnySessionEvent], id_: int = 1) -> Session:
    session = Session(id_)
    for event in log:
        session.apply(event)
    return session


def record(*events: AnySessionEvent) -> Session:
    """Returns a session after these events, stamped as a recorder would."""
    session = Session(1)
    for ts, event in enumerate(events):
        session.apply(fill_derived_fields(session.state, event, float(ts)))
    return session


@given(valid_logs())
def test_a_log_that_is_encoded_and_decoded_folds_to_the_same_session(log: list[AnySessionEvent]) -> None:
    id_ = log[0].session or 0
    direct, decoded = replay(log, id_), replay([decode_row(encode(event)) for event in log], id_)
    assert (direct.state, list(direct.history.messages)) == (decoded.state, list(decoded.history.messages))


@given(valid_logs())
def test_a_session_state_is_the_same_after_encoding_and_decoding(log: list[AnySessionEvent]) -> None:
    state = replay(log, log[0].session or 0).state
    assert decode(encode_state(state)) == state


def test_rows_of_existing_databases_decode_to_the_renamed_fields_of_a_turn() -> None:
    row = (
        b'{"id":1,"turn":{"number":1,"first_seq":2,"started_at":0.0,"cut_off":1,"heard":false,"asked":2,"unsure":true}}'
    )
    turn = TurnState(number=1, first_seq=2, started_at=0.0, interrupted_rounds=1, needs_model=False, requested_calls=2)
    state = SessionState(id=1, turn=replace(turn, outcome_unknown=True))
    assert (decode(row), encode_state(state)) == (state, row)


@given(valid_logs(), st.booleans())
def test_a_log_cut_off_anywhere_is_closed_to_a_history_that_providers_accept(
    log: list[AnySessionEvent], has_draft: bool
) -> None:
    for cut in range(1, len(log) + 1):
        session = replay(log[:cut], log[0].session or 0)
        turn = session.turn
        if turn is None:
            assert close_open_round(session.state, None) == []
            continue
        draft = Draft(turn=turn.number, round=turn.rounds + 1, text="so far") if has_draft else None
        for event in [*close_open_round(session.state, draft), Done(stop_reason="interrupted")]:
            session.apply(fill_derived_fields(session.state, event, 99.0))
        assert session.turn is None
        assert decide(Agent(name="any"), session.state) is None
        assert has_paired_calls(session.history.messages)


@given(valid_logs())
def test_decisions_depend_on_the_events_alone(log: list[AnySessionEvent]) -> None:
    agent, id_ = Agent(name="any", max_iterations=3), log[0].session or 0
    session = Session(id_)
    for n, event in enumerate(log, 1):
        session.apply(event)
        assert decide(agent, session.state) == decide(agent, replay(log[:n], id_).state)


def test_results_are_recorded_in_completion_order_and_shown_in_call_order() -> None:
    session = record(
        SessionCreated(agent="a"),
        UserMessage(content="go"),
        AssistantMessage(round=1, calls=(READ, WRITE), finish="tool_calls"),
        ToolCallsStart(calls=(READ, WRITE)),
        ToolStarted(call_id="c1", name="read"),
        ToolStarted(call_id="c2", name="write"),
        ToolResult(call_id="c2", name="write", output="second"),
        ToolResult(call_id="c1", name="read", output="first"),
        ToolCallsComplete(count=2),
    )
    assert session.history.messages == [
        User("go"),
        Assistant(calls=(READ, WRITE)),
        ToolOutput(call_id="c1", name="read", output="first"),
        ToolOutput(call_id="c2", name="write", output="second"),
    ]


def test_a_started_call_is_closed_as_unknown_and_other_calls_as_not_run() -> None:
    session = record(
        SessionCreated(agent="a"),
        UserMessage(content="go"),
        AssistantMessage(round=1, calls=(READ, WRITE)),
        ToolCallsStart(calls=(READ, WRITE)),
        ToolStarted(call_id="c2", name="write"),
    )
    results = [event for event in close_open_round(session.state, None) if isinstance(event, ToolResult)]
    assert [(event.call_id, event.outcome, "unknown" in event.output) for event in results] == [
        ("c1", "interrupted", False),
        ("c2", "interrupted", True),
    ]


def test_the_sender_is_shown_to_the_model_only_when_there_is_one() -> None:
    session = record(
        SessionCreated(agent="a"),
        UserMessage(content="hi", sender="ann"),
        Done(stop_reason="error"),
        UserMessage(content="ho"),
    )
    assert session.history.messages == [User("From ann:\nhi"), User("ho")]


def test_one_unknown_cost_makes_the_cost_of_the_turn_and_the_session_unknown() -> None:
    session = record(
        SessionCreated(agent="a"),
        UserMessage(content="go"),
        AssistantMessage(round=1, content="x", cost_usd=0.25),
        Done(stop_reason="text_response"),
        UserMessage(content="again"),
        AssistantMessage(round=1, content="y", cost_usd=None),
    )
    assert session.state.cost_usd is None
    assert session.turn is not None
    assert session.turn.cost_usd is None


@pytest.mark.parametrize(
    ("before", "event"),
    [
        ([], UserMessage(content="before it is created")),
        ([SessionCreated(agent="a")], SessionCreated(agent="a")),
        ([SessionCreated(agent="a")], Done(stop_reason="no_action")),
        ([SessionCreated(agent="a")], InterruptRequested()),
        ([SessionCreated(agent="a"), SessionClosed()], UserMessage(content="after it is closed")),
        ([SessionCreated(agent="a"), UserMessage(content="1")], UserMessage(content="2")),
        ([SessionCreated(agent="a"), UserMessage(content="1")], SessionClosed()),
        ([SessionCreated(agent="a"), UserMessage(content="1")], ToolCallsStart(calls=(READ,))),
        (
            [SessionCreated(agent="a"), UserMessage(content="1"), AssistantMessage(round=1, calls=(READ,))],
            Done(stop_reason="no_action"),
        ),
        (
            [SessionCreated(agent="a"), UserMessage(content="1"), AssistantMessage(round=1, content="x")],
            AssistantMessage(round=2, content="unasked"),
        ),
        (
            [
                SessionCreated(agent="a"),
                UserMessage(content="1"),
                AssistantMessage(round=1, calls=(READ,)),
                ToolCallsStart(calls=(READ,)),
            ],
            ToolResult(call_id="other", name="read", output=""),
        ),
        (
            [
                SessionCreated(agent="a"),
                UserMessage(content="1"),
                AssistantMessage(round=1, calls=(READ,)),
                ToolCallsStart(calls=(READ,)),
            ],
            ToolCallsComplete(count=1),
        ),
    ],
)
def test_an_invalid_transition_is_refused_and_changes_nothing(
    before: list[AnySessionEvent], event: AnySessionEvent
) -> None:
    session = record(*before)
    state, messages = session.state, list(session.history.messages)
    with pytest.raises(InvalidTransition, match=f"session 1: {type(event).__struct_config__.tag} may not follow"):
        session.apply(fill_derived_fields(session.state, event, 9.0))
    assert (session.state, list(session.history.messages)) == (state, messages)


def test_a_message_is_encoded_once_for_a_wire_and_reused_when_it_is_sent_again() -> None:
    session = record(SessionCreated(agent="a"), UserMessage(content="one"))
    encoded: list[object] = []

    def encode_one(message: object) -> EncodedMessage:
        encoded.append(message)
        return EncodedMessage("any", b"%d" % len(encoded))

    session.history.render("w", encode_one)
    session.apply(fill_derived_fields(session.state, AssistantMessage(round=1, content="two"), 2.0))
    assert [message.blocks for message in session.history.render("w", encode_one)] == [b"1", b"2"]
    assert encoded == list(session.history.messages)


@given(valid_logs())
def test_apply_event_never_changes_its_argument(log: list[AnySessionEvent]) -> None:
    session = replay(log[:-1], log[0].session or 0)
    before = encode_state(session.state)
    apply_event(session.state, log[-1])
    assert encode_state(session.state) == before
