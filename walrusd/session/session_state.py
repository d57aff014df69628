"""The immutable part of a session: its state, its open turn and its totals, without the messages.

`apply_event` folds one event into a state, or refuses it. Because states are values, a whole transaction can be
checked before anything is written, and the resulting state is stored as the session's row.
"""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from walrus_protocol.content import Finish, MessageKind, State, StopReason, ToolCall, TurnError, Usage, plain_text
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    CheckpointCreated,
    Done,
    InterruptRequested,
    Parent,
    ProcessGroupId,
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
from walrus_protocol.json import Decoder
from walrusd.session.message_tree import is_empty_message
from walrusd.session.transitions import InvalidTransition, Phase, next_phase

_STORED_NAMES = {
    "interrupted_rounds": "cut_off",
    "needs_model": "heard",
    "requested_calls": "asked",
    "outcome_unknown": "unsure",
}
"""Maps fields of TurnState to their names in the rows of existing databases."""


class TurnState(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=_STORED_NAMES):
    """The open turn: its progress and its unfinished work."""

    number: int
    first_seq: int
    started_at: float
    kind: MessageKind = "message"
    timeout_s: float | None = None
    attempt: int = 1
    """Starts since the last complete round; clean shutdowns do not count."""
    rounds: int = 0
    interrupted_rounds: int = 0
    """Those of the rounds whose answer was cut off; an agent's limit does not count them."""
    needs_model: bool = True
    """True if something new for the model was recorded since its last answer."""
    calls: tuple[ToolCall, ...] = ()
    """The requested calls that have no result yet, in call order."""
    requested_calls: int = 0
    """The number of calls in the last answer."""
    executing: bool = False
    """True if `tool_calls_start` is recorded and `tool_calls_complete` is not."""
    started: tuple[str, ...] = ()
    """Ids of the calls that have started and have no result; an id is repeated for each start."""
    outcome_unknown: bool = False
    """True if a call of this round was closed without its outcome."""
    processes: tuple[tuple[str, ProcessGroupId], ...] = ()
    """The started calls that run as a process, by call id."""
    finish: Finish | None = None
    text: str = ""
    """The text of the last answer."""
    usage: Usage = Usage()
    cost_usd: float | None = 0.0
    interrupt: str | None = None
    """The reason of the first requested interrupt."""


class SessionState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session without its messages.

    The store keeps it as the session's row, from which sessions are listed.
    """

    id: int
    state: State | None = None
    agent: str = ""
    created_by: str = ""
    title: str = ""
    parent: Parent | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    last_seq: int = 0
    turns: int = 0
    messages: int = 0
    """The number of messages of users and assistants that the model sees."""
    usage: Usage = Usage()
    cost_usd: float | None = 0.0
    turn: TurnState | None = None
    stop_reason: StopReason | None = None
    """The stop reason of the last turn."""
    error: TurnError | None = None
    """The last turn's error while the session is in the state `error`."""

    @property
    def phase(self) -> Phase:
        if self.turn is not None:
            return "turn"
        if self.state is None:
            return "new"
        return "closed" if self.state == "closed" else "idle"


_encoder = msgspec.json.Encoder()
_decoder = Decoder(SessionState)


def encode(session_state: SessionState) -> bytes:
    """Returns the state as stored in the session's row."""
    return _encoder.encode(session_state)


def decode(row: bytes) -> SessionState:
    """Returns the state in a session's row. Raises BadJson."""
    return _decoder.decode(row)


def fill_derived_fields(
    session_state: SessionState, event: AnySessionEvent, ts: float, elapsed_s: float | None = None
) -> AnySessionEvent:
    """Returns `event` with its time, session and turn, and with the totals that follow from the log.

    `elapsed_s` is the open turn's duration by a monotonic clock; without it the duration is computed from `ts`.
    """
    turn = session_state.turn
    match event:
        case UserMessage() if turn is None:
            number: int | None = session_state.turns + 1
        case Done() if turn is not None:
            return replace(
                event,
                ts=ts,
                session=session_state.id,
                turn=turn.number,
                text=turn.text,
                rounds=turn.rounds,
                usage=turn.usage,
                cost_usd=turn.cost_usd,
                duration_ms=max(0, round((ts - turn.started_at if elapsed_s is None else elapsed_s) * 1000)),
                messages=session_state.messages,
            )
        case ToolCallsComplete() if turn is not None:
            return replace(event, ts=ts, session=session_state.id, turn=turn.number, messages=session_state.messages)
        case _:
            number = turn.number if turn else None
    return replace(event, ts=ts, session=session_state.id, turn=number)


def apply_event(session_state: SessionState, event: AnySessionEvent) -> SessionState:
    """Returns the state after a stamped `event`. Raises InvalidTransition if the event is not allowed now."""
    turn = session_state.turn
    phase = next_phase(session_state.phase, event, executing=turn is not None and turn.executing)
    if phase is None:
        raise InvalidTransition(session_state.id, session_state.state, event)
    after = _fold(replace(session_state, last_seq=session_state.last_seq + 1, updated_at=event.ts), event)
    state = _shown_state(after, phase)
    return after if after.state == state else replace(after, state=state)


def _shown_state(session_state: SessionState, phase: Phase) -> State | None:
    """Returns the state that clients see: a function of the phase and of what the events have left to do."""
    match phase:
        case "new":
            return None
        case "idle":
            return "error" if session_state.stop_reason == "error" else "idle"
        case "turn":
            return "executing_tool" if session_state.turn and session_state.turn.executing else "processing"
        case "closed":
            return "closed"


def _fold(session_state: SessionState, event: AnySessionEvent) -> SessionState:
    match event:
        case SessionCreated():
            return replace(
                session_state,
                agent=event.agent,
                created_by=event.created_by,
                title=event.title,
                parent=event.parent,
                created_at=event.ts,
                messages=event.parent.messages if event.parent else 0,
            )
        case UserMessage():
            return _apply_user_message(session_state, event)
        case AssistantMessage():
            return _apply_assistant_message(session_state, event)
        case ToolCallsStart() | ToolStarted() | ToolResult() | ToolCallsComplete():
            return replace(session_state, turn=_apply_tool_event(session_state, event))
        case InterruptRequested() | TurnResumed():
            return replace(session_state, turn=_apply_interrupt_or_resume(session_state, event))
        case CheckpointCreated() | Rewound():
            return _apply_checkpoint_or_rewind(session_state, event)
        case Done():
            if _open_turn(session_state).calls:
                raise InvalidTransition(session_state.id, session_state.state, event, "a tool call is still open")
            error = event.error if event.stop_reason == "error" else None
            return replace(session_state, turn=None, stop_reason=event.stop_reason, error=error)
        case SessionClosed():
            return replace(session_state, error=None)


def _open_turn(session_state: SessionState) -> TurnState:
    assert session_state.turn is not None, "the event is allowed only in a turn"
    return session_state.turn


def _apply_checkpoint_or_rewind(session_state: SessionState, event: CheckpointCreated | Rewound) -> SessionState:
    point = event.to if isinstance(event, Rewound) else event.at
    if not 1 <= point < session_state.last_seq:
        raise InvalidTransition(session_state.id, session_state.state, event, f"seq {point} does not come before it")
    return replace(session_state, messages=event.messages) if isinstance(event, Rewound) else session_state


def _apply_user_message(session_state: SessionState, event: UserMessage) -> SessionState:
    session_state = replace(session_state, messages=session_state.messages + 1, error=None)
    if session_state.turn is None:
        number = session_state.turns + 1
        turn = TurnState(
            number=number,
            first_seq=session_state.last_seq,
            started_at=event.ts,
            kind=event.kind,
            timeout_s=event.timeout_s,
        )
        return replace(session_state, turns=number, turn=turn)
    if event.kind not in {"steer", "resume"} or session_state.turn.calls:
        raise InvalidTransition(session_state.id, session_state.state, event, "a turn is open")
    return replace(session_state, turn=replace(session_state.turn, needs_model=True))


def _apply_assistant_message(session_state: SessionState, event: AssistantMessage) -> SessionState:
    turn = _open_turn(session_state)
    if not turn.needs_model or turn.calls:
        raise InvalidTransition(session_state.id, session_state.state, event, "no model call was due")
    cost = _add_cost(turn.cost_usd, event.cost_usd)
    interrupted = event.finish == "interrupted"
    turn = replace(
        turn,
        attempt=turn.attempt if interrupted or event.calls else 1,  # with calls the round is not complete yet
        rounds=turn.rounds + 1,
        interrupted_rounds=turn.interrupted_rounds + interrupted,
        needs_model=False,
        calls=event.calls,
        requested_calls=len(event.calls),
        finish=event.finish,
        text=plain_text(event.content),
        usage=turn.usage + event.usage,
        cost_usd=cost,
    )
    return replace(
        session_state,
        messages=session_state.messages + (not is_empty_message(event)),
        usage=session_state.usage + event.usage,
        cost_usd=_add_cost(session_state.cost_usd, event.cost_usd),
        turn=turn,
    )


def _apply_interrupt_or_resume(session_state: SessionState, event: InterruptRequested | TurnResumed) -> TurnState:
    turn = _open_turn(session_state)
    match event:
        case InterruptRequested():
            return replace(turn, interrupt=turn.interrupt or event.reason)
        case TurnResumed():
            # If an answer was cut off before its first word, the model is simply called again. If it has text, the
            # user message that follows makes the next model call due.
            is_empty = turn.finish == "interrupted" and not turn.text.strip()
            return replace(turn, attempt=event.attempt, needs_model=turn.needs_model or is_empty)


def _add_cost(total: float | None, cost: float | None) -> float | None:
    """Returns the sum, or None if either is unknown: a partial sum would look like a low cost."""
    return None if total is None or cost is None else total + cost


def _apply_tool_event(
    session_state: SessionState, event: ToolCallsStart | ToolStarted | ToolResult | ToolCallsComplete
) -> TurnState:
    turn = _open_turn(session_state)
    match event:
        case ToolCallsStart():
            if not turn.calls or event.calls != turn.calls:
                raise InvalidTransition(
                    session_state.id, session_state.state, event, "these are not the calls that were asked for"
                )
            return replace(turn, executing=True)
        case ToolStarted():
            if event.call_id not in {call.id for call in turn.calls}:
                raise InvalidTransition(
                    session_state.id, session_state.state, event, f"call {event.call_id} is not open"
                )
            processes = tuple(entry for entry in turn.processes if entry[0] != event.call_id)
            if event.process is not None:
                processes = (*processes, (event.call_id, event.process))
            return replace(turn, started=(*turn.started, event.call_id), processes=processes)
        case ToolResult():
            remaining = tuple(call for call in turn.calls if call.id != event.call_id)
            if len(remaining) == len(turn.calls):
                raise InvalidTransition(
                    session_state.id, session_state.state, event, f"call {event.call_id} is not open"
                )
            started = tuple(call for call in turn.started if call != event.call_id)
            processes = tuple(entry for entry in turn.processes if entry[0] != event.call_id)
            unknown = turn.outcome_unknown or event.outcome == "interrupted"
            return replace(turn, calls=remaining, started=started, processes=processes, outcome_unknown=unknown)
        case ToolCallsComplete():
            if turn.calls:
                raise InvalidTransition(session_state.id, session_state.state, event, "a tool call is still open")
            attempt = turn.attempt if turn.outcome_unknown else 1
            return replace(turn, executing=False, needs_model=True, outcome_unknown=False, attempt=attempt)
