"""The table of a session's phases and of the events allowed in each."""

from typing import Literal

from walrus_protocol.content import State
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    CheckpointCreated,
    Done,
    Event,
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

Phase = Literal["new", "idle", "turn", "closed"]
"""`new`: nothing is recorded; `turn`: a turn is open; `idle`: none is."""

TRANSITIONS: dict[tuple[Phase, type[Event]], Phase] = {
    ("new", SessionCreated): "idle",
    ("idle", UserMessage): "turn",
    ("idle", CheckpointCreated): "idle",
    ("idle", Rewound): "idle",
    ("idle", SessionClosed): "closed",
    ("turn", UserMessage): "turn",
    ("turn", AssistantMessage): "turn",
    ("turn", ToolCallsStart): "turn",
    ("turn", ToolStarted): "turn",
    ("turn", ToolResult): "turn",
    ("turn", ToolCallsComplete): "turn",
    ("turn", InterruptRequested): "turn",
    ("turn", TurnResumed): "turn",
    ("turn", CheckpointCreated): "turn",
    ("turn", Done): "idle",
}
"""Maps (phase before, event) to the phase after it."""
WHILE_EXECUTING: dict[type[Event], bool] = {
    UserMessage: False,
    AssistantMessage: False,
    ToolCallsStart: False,
    ToolStarted: True,
    ToolResult: True,
    ToolCallsComplete: True,
    Done: False,
}
"""Whether an event needs the calls of the last answer to be executing, or not to be; the others are allowed in both."""


class InvalidTransition(Exception):
    """An event is not allowed in the session's state. Nothing was written."""

    def __init__(self, session: int, state: State | None, event: AnySessionEvent, reason: str = "") -> None:
        name = type(event).__struct_config__.tag
        super().__init__(f"session {session}: {name} may not follow in state {state or 'new'}{reason and ': '}{reason}")


def next_phase(phase: Phase, event: AnySessionEvent, *, executing: bool) -> Phase | None:
    """Returns the phase after `event`, or None if the event is not allowed.

    `executing` is True from `tool_calls_start` to `tool_calls_complete`.
    """
    event_type = type(event)
    if WHILE_EXECUTING.get(event_type, executing) != executing:
        return None
    return TRANSITIONS.get((phase, event_type))
