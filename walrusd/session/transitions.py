"""The table of a session's states and of the events allowed in each.

No other code changes the state.

States that wait for a person or a subagent are added with the events that cause them.
"""

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

TRANSITIONS: dict[tuple[State | None, type[Event]], State] = {
    (None, SessionCreated): "idle",
    ("idle", UserMessage): "processing",
    ("error", UserMessage): "processing",
    ("processing", UserMessage): "processing",
    ("processing", AssistantMessage): "processing",
    ("processing", ToolCallsStart): "executing_tool",
    ("executing_tool", ToolStarted): "executing_tool",
    ("executing_tool", ToolResult): "executing_tool",
    ("executing_tool", ToolCallsComplete): "processing",
    ("processing", InterruptRequested): "processing",
    ("executing_tool", InterruptRequested): "executing_tool",
    ("processing", TurnResumed): "processing",
    ("executing_tool", TurnResumed): "executing_tool",
    ("processing", Done): "idle",
    ("idle", CheckpointCreated): "idle",
    ("error", CheckpointCreated): "error",
    ("processing", CheckpointCreated): "processing",
    ("executing_tool", CheckpointCreated): "executing_tool",
    ("idle", Rewound): "idle",
    ("error", Rewound): "error",
    ("idle", SessionClosed): "closed",
    ("error", SessionClosed): "closed",
}
"""Maps (state before, event) to the state after it; the state before the first event is None.

The exception is a `done` with the stop reason `error`: the state after it is `error`.
"""


class InvalidTransition(Exception):
    """An event is not allowed in the session's state. Nothing was written."""

    def __init__(self, session: int, state: State | None, event: AnySessionEvent, reason: str = "") -> None:
        name = type(event).__struct_config__.tag
        super().__init__(f"session {session}: {name} may not follow in state {state or 'new'}{reason and ': '}{reason}")
        self.state = state
        self.event = event


def next_state(session: int, state: State | None, event: AnySessionEvent) -> State:
    """Returns the state after `event`. Raises InvalidTransition."""
    try:
        state_after = TRANSITIONS[state, type(event)]
    except KeyError:
        raise InvalidTransition(session, state, event) from None
    if isinstance(event, Done) and event.stop_reason == "error":
        return "error"
    return state_after
