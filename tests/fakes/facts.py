"""Random but lawful logs: hypothesis chooses at each step among the events that may follow."""

from hypothesis import strategies as st

from walrus_protocol.content import ToolCall, Usage
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
    InterruptRequested,
    SessionClosed,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrusd.session.outline import Outline, advance, stamp

texts = st.text(max_size=20)


@st.composite
def lawful_logs(draw: st.DrawFn, most: int = 40) -> list[Durable]:
    """Stamped events of one session, from its creation on."""
    outline, log = Outline(id=draw(st.integers(1, 2**53 - 1))), []
    event: Durable | None = SessionCreated(agent=draw(st.sampled_from(["walrus", "researcher"])))
    for ts in range(draw(st.integers(1, most))):
        if event is None:
            break
        stamped = stamp(outline, event, float(ts))
        outline = advance(outline, stamped)
        log.append(stamped)
        choices = may_follow(outline, draw)
        event = draw(st.sampled_from(choices)) if choices else None
    return log


def may_follow(outline: Outline, draw: st.DrawFn) -> list[Durable]:
    turn = outline.turn
    if turn is None:
        if outline.state == "closed":
            return []
        message = UserMessage(content=draw(texts), sender=draw(st.sampled_from(["", "ann"])))
        return [message, message, message, SessionClosed()]
    if turn.executing:
        if not turn.calls:
            return [ToolCallsComplete(count=1)]
        call = draw(st.sampled_from(turn.calls))
        result = ToolResult(call_id=call.id, name=call.name, output=draw(texts))
        started = [] if call.id in turn.started else [ToolStarted(call_id=call.id, name=call.name)]
        return [result, InterruptRequested(), *started]
    if turn.calls:
        return [ToolCallsStart(calls=turn.calls), InterruptRequested()]
    if not turn.heard:
        return [Done(stop_reason="text_response"), UserMessage(content=draw(texts), kind="steer")]
    calls = tuple(
        ToolCall(f"c{n}", draw(st.sampled_from(["read", "bash"])), {"path": draw(texts)})
        for n in range(draw(st.integers(0, 3)))
    )
    cost = draw(st.sampled_from([None, 0.0, 0.5]))
    answer = AssistantMessage(
        round=turn.rounds + 1, content=draw(texts), calls=calls, usage=Usage(input=3, output=2), cost_usd=cost
    )
    return [answer, answer, Done(stop_reason="error"), InterruptRequested(), UserMessage(content="x", kind="steer")]
