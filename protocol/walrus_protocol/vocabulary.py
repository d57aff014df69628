"""The closed lists of words in messages: states, outcomes, reasons, event types and kinds of turn errors.

It needs only the standard library, so that `walrusctl` can import it fast.
"""

from typing import Literal

StopReason = Literal["text_response", "max_iterations", "no_action", "error", "interrupted", "budget_exceeded"]
State = Literal[
    "idle",
    "processing",
    "executing_tool",
    "waiting_for_subagent",
    "waiting_for_permission",
    "waiting_for_user_input",
    "error",
    "closed",
]
Finish = Literal["stop", "tool_calls", "length", "interrupted", "refused"]
Outcome = Literal[
    "ok",
    "error",
    "denied",
    "invalid",
    "timeout",
    "limited",
    "budget",
    "cached",
    "interrupted",
    "unknown_tool",
]
MessageKind = Literal["message", "steer", "heartbeat", "schedule", "task", "resume"]
TickOutcome = Literal["running", "ran", "failed", "skipped", "missed", "interrupted"]
"""The outcomes of a tick. Skipped: a reason prevented it. Missed: walrusd or the machine was off.
Interrupted: walrusd ended during the tick."""
TickTrigger = Literal["clock", "hand"]
ExpiryReason = Literal["retention", "space", "gc"]
WhenBusy = Literal["queue", "steer", "interrupt", "reject"]
EventType = Literal[
    "session_created",
    "user_message",
    "assistant_message",
    "tool_calls_start",
    "tool_started",
    "tool_result",
    "tool_calls_complete",
    "interrupt_requested",
    "turn_resumed",
    "checkpoint_created",
    "rewound",
    "done",
    "session_closed",
    "tick",
    "config_reloaded",
    "sessions_expired",
    "session_imported",
    "message_queued",
    "text_delta",
    "thinking_delta",
    "tool_output",
    "state_changed",
    "lagged",
]
"""The `type` of each event of `events.AnyEvent`, in the same order; a test compares them."""
TurnErrorKind = Literal[
    "provider_auth",
    "provider_quota",
    "provider_rate_limited",
    "provider_overloaded",
    "provider_timeout",
    "provider_network",
    "provider_bad_response",
    "provider_refused",
    "context_length",
    "model_not_found",
    "no_provider",
    "timeout",
    "crashed_repeatedly",
    "storage",
    "internal",
]
