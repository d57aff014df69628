"""What a turn that was left open is owed before it ends, or goes on: cut at every event, with every draft."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.facts import lawful_logs
from tests.fakes.pairing import calls_are_paired
from walrus_protocol.content import Assistant, ToolCall, ToolOutput, User
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
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
from walrusd.agent.decide import AskModel, CallTools, Rest, decide
from walrusd.session.mend import ATTEMPTS, CUT_OFF, Draft, OnRestart, fate, left_over, mend, resume, said_so_far
from walrusd.session.outline import Turn, stamp
from walrusd.session.session import Session

WALRUS = Agent(name="walrus", max_iterations=1000)
READ, ALSO, WRITE = (ToolCall(f"c{n}", name, {}) for n, name in enumerate(("read", "read", "write")))
STARTED = AssistantMessage(round=1, calls=(READ, ALSO, WRITE)), ToolCallsStart(calls=(READ, ALSO, WRITE))


def recorded(*events: Durable) -> Session:
    """A session in a turn, after these events."""
    session = Session(1)
    for ts, event in enumerate((SessionCreated(agent="a"), UserMessage(content="go"), *events)):
        session.apply(stamp(session.outline, event, float(ts)))
    return session


def add(session: Session, *events: Durable) -> None:
    for event in events:
        session.apply(stamp(session.outline, event, 99.0))


def begun(call: ToolCall, attempt: int = 1) -> ToolStarted:
    return ToolStarted(call_id=call.id, name=call.name, attempt=attempt)


def answered(call: ToolCall) -> ToolResult:
    return ToolResult(call_id=call.id, name=call.name, output="seen")


def reads(tool: str) -> bool:
    return tool == "read"


def nothing(_: str) -> bool:
    return False


def open_turn(session: Session) -> Turn:
    assert session.turn is not None
    return session.turn


@st.composite
def left_open(draw: st.DrawFn) -> tuple[Session, Draft | None]:
    """A session cut off in mid-turn, and what was beside its log."""
    log = draw(lawful_logs().filter(lambda log: any(event.turn for event in log)))
    inside = [n for n, event in enumerate(log, 1) if event.turn is not None and not isinstance(event, Done)]
    session = Session(log[0].session or 0)
    for event in log[: draw(st.sampled_from(inside))]:
        session.apply(event)
    turn = open_turn(session)
    said = draw(st.sampled_from(["", "so far"]))
    suspended = draw(st.booleans())
    drafts = [
        None,
        Draft(turn=turn.number, round=turn.rounds + 1, text=said, suspended=suspended),
        Draft(turn=turn.number, round=0, suspended=True),
    ]
    return session, left_over(turn, draw(st.sampled_from(drafts)))


@given(left_open(), st.sampled_from([reads, nothing]))
def test_wherever_it_was_cut_off_it_can_go_on_to_its_done(
    cut: tuple[Session, Draft | None], idempotent: Callable[[str], bool]
) -> None:
    session, draft = cut
    add(session, *resume(session.outline, draft, idempotent))
    while (turn := session.turn) is not None:
        match decide(WALRUS, session.outline):
            case AskModel(round_):
                assert calls_are_paired(session.history.messages)
                assert not isinstance(session.history.messages[-1], Assistant), "providers refuse that"
                add(session, AssistantMessage(round=round_, content="done"))
            case CallTools(calls, announced, asked):
                add(session, *[] if announced else [ToolCallsStart(calls=calls)])
                add(session, *map(answered, calls), ToolCallsComplete(count=asked))
            case Rest(stop_reason, error):
                add(session, *mend(session.outline, None) if turn.interrupt else [])
                add(session, Done(stop_reason=stop_reason, error=error))
            case None:
                raise AssertionError("an open turn owes something")
    assert calls_are_paired(session.history.messages)


@given(left_open())
def test_wherever_it_was_cut_off_it_can_end_at_once(cut: tuple[Session, Draft | None]) -> None:
    session, draft = cut
    add(session, *mend(session.outline, draft), Done(stop_reason="interrupted"))
    assert calls_are_paired(session.history.messages)


def test_an_answer_that_was_cut_off_is_kept_and_asked_for_again() -> None:
    session = recorded()
    add(session, *resume(session.outline, Draft(turn=1, round=1, text="Once up"), nothing))
    assert session.history.messages == [
        User("go"),
        Assistant(content="Once up"),
        User(f"From walrusd:\n{CUT_OFF}"),
    ]
    assert decide(Agent(name="a", max_iterations=1), session.outline) == AskModel(2), "it was no round of the agent's"


def test_where_nothing_had_been_said_the_model_is_asked_as_before_and_the_price_of_the_first_time_is_unknown() -> None:
    session = recorded()
    events = resume(session.outline, left_over(open_turn(session), None), nothing)
    assert events == [AssistantMessage(round=1, finish="interrupted"), TurnResumed(attempt=2, reason="crash")]
    add(session, *events)
    assert (session.history.messages, session.outline.cost_usd) == ([User("go")], None)
    assert decide(WALRUS, session.outline) == AskModel(2)


def test_a_model_that_had_not_been_asked_when_walrusd_stopped_has_cost_nothing() -> None:
    session = recorded()
    set_aside = Draft(turn=1, round=0, suspended=True)
    assert resume(session.outline, left_over(open_turn(session), set_aside), nothing) == [
        TurnResumed(attempt=1, reason="shutdown")
    ]


def test_calls_of_which_none_had_begun_are_run() -> None:
    session = recorded(*STARTED)
    add(session, *resume(session.outline, None, nothing))
    assert decide(WALRUS, session.outline) == CallTools((READ, ALSO, WRITE), announced=True, asked=3)


def test_behind_a_call_whose_effect_is_unknown_nothing_is_run() -> None:
    session = recorded(*STARTED, begun(READ), answered(READ), begun(ALSO))
    results = [event for event in resume(session.outline, None, nothing) if isinstance(event, ToolResult)]
    assert [(event.call_id, event.outcome, "unknown" in event.output) for event in results] == [
        ("c1", "interrupted", True),
        ("c2", "interrupted", False),
    ]


def test_a_call_that_had_begun_is_run_once_more_where_its_tool_is_idempotent() -> None:
    session = recorded(*STARTED, begun(READ), begun(ALSO), answered(ALSO))
    add(session, *resume(session.outline, None, reads))
    assert decide(WALRUS, session.outline) == CallTools((READ, WRITE), announced=True, asked=3)
    add(session, begun(READ, 2))
    results = [event for event in resume(session.outline, None, reads) if isinstance(event, ToolResult)]
    assert [(event.call_id, "unknown" in event.output) for event in results] == [("c0", True), ("c2", False)]


def test_beside_one_that_cannot_be_repeated_an_idempotent_call_is_run_again_and_others_are_not() -> None:
    session = recorded(*STARTED, begun(WRITE), begun(READ))
    add(session, *resume(session.outline, None, reads))
    assert decide(WALRUS, session.outline) == CallTools((READ,), announced=True, asked=3)
    add(session, begun(READ, 2), answered(READ), ToolCallsComplete(count=3))
    assert [message.is_error for message in session.history.messages if isinstance(message, ToolOutput)] == [
        False,
        True,
        True,
    ]


def test_only_crashes_count_as_attempts_and_a_complete_round_begins_anew() -> None:
    set_aside = Draft(turn=1, round=0, suspended=True)
    session = recorded()
    assert open_turn(session).attempt == 1
    add(session, *resume(session.outline, set_aside, nothing))
    assert open_turn(session).attempt == 1
    add(session, *resume(session.outline, None, nothing))
    assert open_turn(session).attempt == ATTEMPTS
    closed = ToolResult(call_id="c0", name="read", output="", outcome="interrupted")
    interrupted_round, whole_round = (recorded(TurnResumed(attempt=2)) for _ in range(2))
    for one, result in ((interrupted_round, closed), (whole_round, answered(READ))):
        add(one, AssistantMessage(round=1, calls=(READ,)), ToolCallsStart(calls=(READ,)), begun(READ), result)
        add(one, ToolCallsComplete(count=1))
    assert (open_turn(interrupted_round).attempt, open_turn(whole_round).attempt) == (2, 1)
    said, cut_off = AssistantMessage(round=1, content="So."), said_so_far(UNDER_WAY)
    spoken = [open_turn(recorded(TurnResumed(attempt=2), answer)).attempt for answer in (said, cut_off)]
    assert spoken == [1, 2], "without calls, too: a steer may have it go on"


SET_ASIDE = Draft(turn=1, round=0, suspended=True)
UNDER_WAY = Draft(turn=1, round=1, text="so far")


@pytest.mark.parametrize(
    ("events", "left", "on_restart", "then"),
    [
        ([], UNDER_WAY, "continue", "go on"),
        ([], UNDER_WAY, "close", "end"),
        ([TurnResumed(attempt=2)], UNDER_WAY, "continue", "give up"),
        ([TurnResumed(attempt=2)], SET_ASIDE, "continue", "go on"),
        ([TurnResumed(attempt=2)], UNDER_WAY, "close", "end"),
        ([InterruptRequested()], SET_ASIDE, "continue", "end"),
        ([TurnResumed(attempt=2), InterruptRequested()], UNDER_WAY, "continue", "end"),
    ],
)
def test_what_becomes_of_a_turn_that_was_left_open(
    events: list[Durable], left: Draft, on_restart: OnRestart, then: str
) -> None:
    assert fate(open_turn(recorded(*events)), left, on_restart) == then


def test_what_the_clock_began_ends_for_its_ledger_says_so() -> None:
    session = Session(1)
    add(session, SessionCreated(agent="a"), UserMessage(content="tick", kind="heartbeat"))
    assert fate(open_turn(session), SET_ASIDE, "continue") == "end"
