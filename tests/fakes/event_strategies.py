"""Hypothesis strategies for random but valid event logs.

Each event is chosen among those that may follow.
"""

from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

from walrus_protocol.content import Outcome, ToolCall, Usage
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    CheckpointCreated,
    Done,
    InterruptRequested,
    Rewound,
    SessionClosed,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    TurnResumed,
    UserMessage,
)
from walrusd.session.message_tree import ResumePoint, ResumePointSearch
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields

texts = st.text(max_size=20)


@st.composite
def valid_logs(draw: st.DrawFn, max_events: int = 40) -> list[AnySessionEvent]:
    """Draws the stamped events of one session, beginning with its creation."""
    state, log = SessionState(id=draw(st.integers(1, 2**53 - 1))), []
    event: AnySessionEvent | None = SessionCreated(agent=draw(st.sampled_from(["walrus", "researcher"])))
    for ts in range(draw(st.integers(1, max_events))):
        if event is None:
            break
        stamped = fill_derived_fields(state, event, float(ts))
        state = apply_event(state, stamped)
        log.append(stamped)
        choices = possible_next_events(state, draw)
        if choices:
            choices += [*checkpoint_and_rewind(state, log, draw)]
        event = draw(st.sampled_from(choices)) if choices else None
    return log


def checkpoint_and_rewind(
    state: SessionState, log: list[AnySessionEvent], draw: st.DrawFn
) -> Iterator[AnySessionEvent]:
    """Yields a checkpoint and, between turns, a rewind, each to any earlier resume point."""
    found = find_resume_point(log, draw(st.integers(1, len(log))))
    assert found is not None, "a log begins with its creation"
    yield CheckpointCreated(name=draw(st.sampled_from("abc")), at=found.seq)
    if state.turn is None:
        yield Rewound(to=found.seq, messages=found.messages)


def find_resume_point(log: Sequence[AnySessionEvent], at: int, down_to: int = 1) -> ResumePoint | None:
    """Searches backwards from `at` to `down_to`; returns the first resume point, or None."""
    search = ResumePointSearch(at)
    return next((found for seq in range(at, down_to - 1, -1) if (found := search.visit(seq, log[seq - 1]))), None)


def possible_next_events(state: SessionState, draw: st.DrawFn) -> list[AnySessionEvent]:
    turn = state.turn
    if turn is None:
        if state.state == "closed":
            return []
        message = UserMessage(content=draw(texts), sender=draw(st.sampled_from(["", "ann"])))
        return [message, message, message, SessionClosed()]
    if turn.executing:
        if not turn.calls:
            return [ToolCallsComplete(count=turn.requested_calls)]
        call = draw(st.sampled_from(turn.calls))
        outcome: Outcome = draw(st.sampled_from(["ok", "ok", "interrupted"]))
        result = ToolResult(call_id=call.id, name=call.name, output=draw(texts), outcome=outcome)
        started = ToolStarted(call_id=call.id, name=call.name, attempt=1 + turn.started.count(call.id))
        return [result, InterruptRequested(), TurnResumed(attempt=turn.attempt + 1), started]
    if turn.calls:
        return [ToolCallsStart(calls=turn.calls), InterruptRequested()]
    if not turn.needs_model:
        resumed = [TurnResumed(attempt=turn.attempt)] if turn.finish == "interrupted" else []
        return [Done(stop_reason="text_response"), UserMessage(content=draw(texts), kind="steer"), *resumed]
    calls = tuple(
        ToolCall(f"c{n}", draw(st.sampled_from(["read", "bash"])), {"path": draw(texts)})
        for n in range(draw(st.integers(0, 3)))
    )
    cost = draw(st.sampled_from([None, 0.0, 0.5]))
    answer = AssistantMessage(
        round=turn.rounds + 1, content=draw(texts), calls=calls, usage=Usage(input=3, output=2), cost_usd=cost
    )
    cut_off = AssistantMessage(round=turn.rounds + 1, content=draw(texts), finish="interrupted")
    return [
        answer,
        answer,
        cut_off,
        Done(stop_reason="error"),
        InterruptRequested(),
        TurnResumed(attempt=turn.attempt + 1),
        UserMessage(content="x", kind="steer"),
    ]
