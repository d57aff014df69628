"""The small, frozen part of a session: its state, its open turn and its totals, all but the messages.

`advance` is the check: it folds one event into an outline or refuses it. Because outlines are values, a whole
transaction is checked before anything is written, and the result is what the store keeps as the session's row.
"""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from walrus_protocol.content import Finish, MessageKind, State, StopReason, ToolCall, TurnError, Usage, plain_text
from walrus_protocol.events import (
    AssistantMessage,
    CheckpointCreated,
    Done,
    Durable,
    InterruptRequested,
    Parent,
    Process,
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
from walrusd.session.branch import silent
from walrusd.session.states import Refused, after


class Turn(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The open turn: what it has done and what it owes."""

    number: int
    first_seq: int
    started_at: float
    kind: MessageKind = "message"
    timeout_s: float | None = None
    attempt: int = 1
    """How often it was begun since its last complete round; orderly stops do not count."""
    rounds: int = 0
    cut_off: int = 0
    """Of these rounds, those whose answer was cut off: an agent's limit does not count them."""
    heard: bool = True
    """Something new for the model has come since its last answer."""
    calls: tuple[ToolCall, ...] = ()
    """Asked for and not answered yet, in call order."""
    asked: int = 0
    """How many calls the last answer asked for."""
    executing: bool = False
    """`tool_calls_start` is recorded, `tool_calls_complete` is not."""
    started: tuple[str, ...] = ()
    """Ids of the unanswered calls whose intent is recorded, once for each time."""
    unsure: bool = False
    """A call of this round was closed without its outcome."""
    processes: tuple[tuple[str, Process], ...] = ()
    """Of these calls, those that run as a process, and which."""
    finish: Finish | None = None
    text: str = ""
    """The text of the last answer."""
    usage: Usage = Usage()
    cost_usd: float | None = 0.0
    interrupt: str | None = None
    """The reason of the first interrupt that was requested."""


class Outline(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session without its messages. Also the row by which the store lists it."""

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
    """Those of users and assistants that the model sees."""
    usage: Usage = Usage()
    cost_usd: float | None = 0.0
    turn: Turn | None = None
    stop_reason: StopReason | None = None
    """How the last turn ended."""
    error: TurnError | None = None
    """Why, in the state `error`."""


_encoder = msgspec.json.Encoder()
_decoder = Decoder(Outline)


def encode(outline: Outline) -> bytes:
    return _encoder.encode(outline)


def decode(row: bytes) -> Outline:
    return _decoder.decode(row)


def stamp(outline: Outline, event: Durable, ts: float, elapsed_s: float | None = None) -> Durable:
    """`event` with what follows from the log: its time, session and turn, and the totals of a round and of a turn.

    `elapsed_s`: how long the open turn has taken, where a clock that nobody sets has measured it.
    """
    turn = outline.turn
    match event:
        case UserMessage() if turn is None:
            number: int | None = outline.turns + 1
        case Done() if turn is not None:
            return replace(
                event,
                ts=ts,
                session=outline.id,
                turn=turn.number,
                text=turn.text,
                rounds=turn.rounds,
                usage=turn.usage,
                cost_usd=turn.cost_usd,
                duration_ms=max(0, round((ts - turn.started_at if elapsed_s is None else elapsed_s) * 1000)),
                messages=outline.messages,
            )
        case ToolCallsComplete() if turn is not None:
            return replace(event, ts=ts, session=outline.id, turn=turn.number, messages=outline.messages)
        case _:
            number = turn.number if turn else None
    return replace(event, ts=ts, session=outline.id, turn=number)


def advance(outline: Outline, event: Durable) -> Outline:
    """The outline after a stamped `event`. Raises Refused where it may not follow."""
    state = after(outline.id, outline.state, event)
    outline = replace(outline, state=state, last_seq=outline.last_seq + 1, updated_at=event.ts)
    match event:
        case SessionCreated():
            return replace(
                outline,
                agent=event.agent,
                created_by=event.created_by,
                title=event.title,
                parent=event.parent,
                created_at=event.ts,
                messages=event.parent.messages if event.parent else 0,
            )
        case UserMessage():
            return _hear(outline, event)
        case AssistantMessage():
            return _answer(outline, event)
        case ToolCallsStart() | ToolStarted() | ToolResult() | ToolCallsComplete():
            return replace(outline, turn=_call(outline, _open(outline, event), event))
        case InterruptRequested() | TurnResumed():
            return replace(outline, turn=_redirect(_open(outline, event), event))
        case CheckpointCreated() | Rewound():
            return _branch(outline, event)
        case Done():
            if _open(outline, event).calls:
                raise Refused(outline.id, state, event, "a tool call is still open")
            error = event.error if state == "error" else None
            return replace(outline, turn=None, stop_reason=event.stop_reason, error=error)
        case SessionClosed():
            return replace(outline, error=None)


def _open(outline: Outline, event: Durable) -> Turn:
    if outline.turn is None:
        raise Refused(outline.id, outline.state, event, "no turn is open")
    return outline.turn


def _branch(outline: Outline, event: CheckpointCreated | Rewound) -> Outline:
    point = event.to if isinstance(event, Rewound) else event.at
    if not 1 <= point < outline.last_seq:
        raise Refused(outline.id, outline.state, event, f"seq {point} does not come before it")
    return replace(outline, messages=event.messages) if isinstance(event, Rewound) else outline


def _hear(outline: Outline, event: UserMessage) -> Outline:
    outline = replace(outline, messages=outline.messages + 1, error=None)
    if outline.turn is None:
        number = outline.turns + 1
        turn = Turn(
            number=number,
            first_seq=outline.last_seq,
            started_at=event.ts,
            kind=event.kind,
            timeout_s=event.timeout_s,
        )
        return replace(outline, turns=number, turn=turn)
    if event.kind not in {"steer", "resume"} or outline.turn.calls:
        raise Refused(outline.id, outline.state, event, "a turn is open")
    return replace(outline, turn=replace(outline.turn, heard=True))


def _answer(outline: Outline, event: AssistantMessage) -> Outline:
    turn = _open(outline, event)
    if not turn.heard or turn.calls:
        raise Refused(outline.id, outline.state, event, "the model was asked nothing new")
    cost = _sum(turn.cost_usd, event.cost_usd)
    cut_off = event.finish == "interrupted"
    turn = replace(
        turn,
        attempt=turn.attempt if cut_off or event.calls else 1,  # with calls the round is not complete yet
        rounds=turn.rounds + 1,
        cut_off=turn.cut_off + cut_off,
        heard=False,
        calls=event.calls,
        asked=len(event.calls),
        finish=event.finish,
        text=plain_text(event.content),
        usage=turn.usage + event.usage,
        cost_usd=cost,
    )
    return replace(
        outline,
        messages=outline.messages + (not silent(event)),
        usage=outline.usage + event.usage,
        cost_usd=_sum(outline.cost_usd, event.cost_usd),
        turn=turn,
    )


def _redirect(turn: Turn, event: InterruptRequested | TurnResumed) -> Turn:
    match event:
        case InterruptRequested():
            return replace(turn, interrupt=turn.interrupt or event.reason)
        case TurnResumed():
            # An answer that was cut off before its first word is none: the model is asked again. Where it had said
            # something, a message asks it.
            nothing_said = turn.finish == "interrupted" and not turn.text.strip()
            return replace(turn, attempt=event.attempt, heard=turn.heard or nothing_said)


def _sum(total: float | None, cost: float | None) -> float | None:
    """Unknown once means unknown for the whole: a sum that leaves a call out would look like money not spent."""
    return None if total is None or cost is None else total + cost


def _call(outline: Outline, turn: Turn, event: ToolCallsStart | ToolStarted | ToolResult | ToolCallsComplete) -> Turn:
    match event:
        case ToolCallsStart():
            if not turn.calls or event.calls != turn.calls:
                raise Refused(outline.id, outline.state, event, "these are not the calls that were asked for")
            return replace(turn, executing=True)
        case ToolStarted():
            if event.call_id not in {call.id for call in turn.calls}:
                raise Refused(outline.id, outline.state, event, f"call {event.call_id} is not open")
            processes = tuple(running for running in turn.processes if running[0] != event.call_id)
            if event.process is not None:
                processes = (*processes, (event.call_id, event.process))
            return replace(turn, started=(*turn.started, event.call_id), processes=processes)
        case ToolResult():
            left = tuple(call for call in turn.calls if call.id != event.call_id)
            if len(left) == len(turn.calls):
                raise Refused(outline.id, outline.state, event, f"call {event.call_id} is not open")
            started = tuple(call for call in turn.started if call != event.call_id)
            processes = tuple(running for running in turn.processes if running[0] != event.call_id)
            unsure = turn.unsure or event.outcome == "interrupted"
            return replace(turn, calls=left, started=started, processes=processes, unsure=unsure)
        case ToolCallsComplete():
            if turn.calls:
                raise Refused(outline.id, outline.state, event, "a tool call is still open")
            attempt = turn.attempt if turn.unsure else 1
            return replace(turn, executing=False, heard=True, unsure=False, attempt=attempt)
