"""What sessions that come from each other have to show, by the plainest reading of their logs, expired ones too."""

from collections.abc import Mapping, Sequence

from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, Usage, User, plain_text
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    CheckpointCreated,
    Done,
    Parent,
    Rewound,
    SessionCreated,
    ToolCallsComplete,
    ToolResult,
    UserMessage,
)
from walrusd.session.session_state import SessionState


class HistoryModel:
    """What the model is to see of each session after each of its events: whole copies, every one."""

    def __init__(self, logs: Mapping[int, Sequence[AnySessionEvent]]) -> None:
        self._logs = logs
        self._histories: dict[int, list[list[Message]]] = {}

    def after_each_event(self, session: int) -> list[list[Message]]:
        """By seq; the first is before the first event."""
        if session not in self._histories:
            self._histories[session] = self._replay(session)
        return self._histories[session]

    def _replay(self, session: int) -> list[list[Message]]:
        past: list[list[Message]] = [[]]
        asked: tuple[ToolCall, ...] = ()
        answers: dict[str, ToolOutput] = {}
        for event in self._logs[session]:
            now = past[-1]
            match event:
                case SessionCreated(parent=Parent() as parent):
                    assert parent.session < session
                    now = self.after_each_event(parent.session)[parent.seq]
                case UserMessage(content=content, sender=sender):
                    now = [*now, User(f"From {sender}:\n{content}" if sender else content)]
                case AssistantMessage(content=content, calls=asked):
                    if plain_text(content).strip() or asked:
                        now = [*now, Assistant(content=content, thinking=event.thinking, calls=asked)]
                case ToolResult(call_id=call, name=name):
                    answers[call] = ToolOutput(call_id=call, name=name, output=event.output, is_error=event.is_error)
                case ToolCallsComplete():
                    now = [*now, *(answers[call.id] for call in asked)]
                case Rewound(to=to):
                    now = past[to]
                case _:
                    pass
            past.append(now)
        return past

    def check(self, outline: SessionState) -> None:
        """That what is counted is so: messages as they are seen, and all that was ever spent and begun."""
        log, past = self._logs[outline.id], self.after_each_event(outline.id)
        for now, event in zip(past[1:], log, strict=True):
            match event:
                case (
                    SessionCreated(parent=Parent(messages=counted))
                    | Rewound(messages=counted)
                    | ToolCallsComplete(messages=counted)
                ):
                    assert counted == count_counted_messages(now)
                case Done(messages=counted):
                    assert counted == count_counted_messages(now)
                    _check_cost(event.usage, event.cost_usd, [each for each in log if each.turn == event.turn])
                case _:
                    pass
        assert outline.messages == count_counted_messages(past[-1])
        assert outline.turns == len({event.turn for event in log} - {None}), "turns are never rewound"
        _check_cost(outline.usage, outline.cost_usd, log)


def _check_cost(usage: Usage, cost_usd: float | None, log: Sequence[AnySessionEvent]) -> None:
    """What was spent stays spent, whatever came after it; what is unknown once is not known of the whole."""
    answers = [event for event in log if isinstance(event, AssistantMessage)]
    costs = [answer.cost_usd for answer in answers if answer.cost_usd is not None]
    assert usage == sum((answer.usage for answer in answers), Usage())
    assert cost_usd == (sum(costs) if len(costs) == len(answers) else None)


def count_counted_messages(messages: Sequence[Message]) -> int:
    """How many of them are users' and assistants'."""
    return sum(not isinstance(message, ToolOutput) for message in messages)


def resume_seq(log: Sequence[AnySessionEvent], at: int) -> int:
    """The last seq up to `at` after which no call is open."""
    stands, in_round = 0, False
    for seq, event in enumerate(log[:at], 1):
        match event:
            case AssistantMessage(calls=[_, *_]):
                in_round = True
            case ToolCallsComplete():
                in_round = False
            case _:
                pass
        stands = stands if in_round else seq
    return stands


def checkpoints(log: Sequence[AnySessionEvent]) -> list[tuple[str, int, int]]:
    """Name, point, and the seq of the event that gave the name last; in the order of these."""
    latest: dict[str, tuple[str, int, int]] = {}
    for seq, event in enumerate(log, 1):
        if isinstance(event, CheckpointCreated):
            latest[event.name] = event.name, event.at, seq
    return sorted(latest.values(), key=lambda named: named[2])
