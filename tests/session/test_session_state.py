"""The fold of a session: what a log says, however it is cut, and what may not follow what."""

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
from walrusd.session.recovery import Draft, close_open_round
from walrusd.session.session import Session
from walrusd.session.session_state import apply_event, decode, fill_derived_fields
from walrusd.session.session_state import encode as encode_outline
from walrusd.session.transitions import InvalidTransition

READ = ToolCall("c1", "read", {"path": "a"})
WRITE = ToolCall("c2", "write", {"path": "b"})


def replay(log: list[AnySessionEvent], id_: int = 1) -> Session:
    session = Session(id_)
    for event in log:
        session.apply(event)
    return session


def record(*events: AnySessionEvent) -> Session:
    """A session after these events, stamped as a recorder would."""
    session = Session(1)
    for ts, event in enumerate(events):
        session.apply(fill_derived_fields(session.state, event, float(ts)))
    return session


@given(valid_logs())
def test_a_log_that_is_encoded_and_decoded_folds_to_the_same_session(log: list[AnySessionEvent]) -> None:
    id_ = log[0].session or 0
    ours, theirs = replay(log, id_), replay([decode_row(encode(event)) for event in log], id_)
    assert (ours.state, list(ours.history.messages)) == (theirs.state, list(theirs.history.messages))


@given(valid_logs())
def test_a_session_state_survives_its_row(log: list[AnySessionEvent]) -> None:
    outline = replay(log, log[0].session or 0).state
    assert decode(encode_outline(outline)) == outline


@given(valid_logs(), st.booleans())
def test_a_log_cut_anywhere_is_repaired_to_a_history_that_providers_accept(
    log: list[AnySessionEvent], drafted: bool
) -> None:
    for cut in range(1, len(log) + 1):
        session = replay(log[:cut], log[0].session or 0)
        turn = session.turn
        if turn is None:
            assert close_open_round(session.state, None) == []
            continue
        draft = Draft(turn=turn.number, round=turn.rounds + 1, text="so far") if drafted else None
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


def test_results_come_in_order_of_completion_and_are_shown_in_call_order() -> None:
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


def test_a_started_call_is_closed_as_unknown_and_one_that_was_not_as_not_run() -> None:
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


def test_a_cost_that_is_unknown_once_is_unknown_for_the_turn_and_the_session() -> None:
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
    outline, messages = session.state, list(session.history.messages)
    with pytest.raises(InvalidTransition, match=f"session 1: {type(event).__struct_config__.tag} may not follow"):
        session.apply(fill_derived_fields(session.state, event, 9.0))
    assert (session.state, list(session.history.messages)) == (outline, messages)


def test_a_message_is_encoded_once_for_a_wire_however_often_it_is_sent() -> None:
    session = record(SessionCreated(agent="a"), UserMessage(content="one"))
    encoded: list[object] = []

    def encode_one(message: object) -> bytes:
        encoded.append(message)
        return b"%d" % len(encoded)

    session.history.render("w", encode_one)
    session.apply(fill_derived_fields(session.state, AssistantMessage(round=1, content="two"), 2.0))
    assert list(session.history.render("w", encode_one)) == [b"1", b"2"]
    assert encoded == list(session.history.messages)


@given(valid_logs())
def test_apply_event_never_changes_the_state_it_was_given(log: list[AnySessionEvent]) -> None:
    session = replay(log[:-1], log[0].session or 0)
    before = encode_outline(session.state)
    apply_event(session.state, log[-1])
    assert encode_outline(session.state) == before
