"""A simple model of histories over forks and rewinds: it replays whole logs, expired ones too."""

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
    """The messages that the model should see after each event of each session, as whole copies."""

    def __init__(self, logs: Mapping[int, Sequence[AnySessionEvent]]) -> None:
        self._logs = logs
        self._histories: dict[int, list[list[Message]]] = {}

    def after_each_event(self, session: int) -> list[list[Message]]:
        """Returns the histories by seq; the first one is before the first event."""
        if session not in self._histories:
            self._histories[session] = self._replay(session)
        return self._histories[session]

    def _replay(self, session: int) -> list[list[Message]]:
        histories: list[list[Message]] = [[]]
        calls: tuple[ToolCall, ...] = ()
        outputs: dict[str, ToolOutput] = {}
        for event in self._logs[session]:
            messages = histories[-1]
            match event:
                case SessionCreated(parent=Parent() as parent):
                    assert parent.session < session
                    messages = self.after_each_event(parent.session)[parent.seq]
                case UserMessage(content=content, sender=sender):
                    messages = [*messages, User(f"From {sender}:\n{content}" if sender else content)]
                case AssistantMessage(content=content, calls=calls):
                    if plain_text(content).strip() or calls:
                        messages = [*messages, Assistant(content=content, thinking=event.thinking, calls=calls)]
                case ToolResult(call_id=call_id, name=name):
                    outputs[call_id] = ToolOutput(
                        call_id=call_id, name=name, output=event.output, is_error=event.is_error
                    )
                case ToolCallsComplete():
                    messages = [*messages, *(outputs[call.id] for call in calls)]
                case Rewound(to=to):
                    messages = histories[to]
                case _:
                    pass
            histories.append(messages)
        return histories

    def check(self, state: SessionState) -> None:
        """Checks the counters of a state: messages in the history, and all turns, usage and cost ever."""
        log, histories = self._logs[state.id], self.after_each_event(state.id)
        for messages, event in zip(histories[1:], log, strict=True):
            match event:
                case (
                    SessionCreated(parent=Parent(messages=counted))
                    | Rewound(messages=counted)
                    | ToolCallsComplete(messages=counted)
                ):
                    assert counted == count_counted_messages(messages)
                case Done(messages=counted):
                    assert counted == count_counted_messages(messages)
                    _check_cost(event.usage, event.cost_usd, [other for other in log if other.turn == event.turn])
                case _:
                    pass
        assert state.messages == count_counted_messages(histories[-1])
        assert state.turns == len({event.turn for event in log} - {None}), "turns are never rewound"
        _check_cost(state.usage, state.cost_usd, log)


def _check_cost(usage: Usage, cost_usd: float | None, log: Sequence[AnySessionEvent]) -> None:
    """Checks sums over all answers, rewound ones too; one unknown cost makes the sum unknown."""
    answers = [event for event in log if isinstance(event, AssistantMessage)]
    costs = [answer.cost_usd for answer in answers if answer.cost_usd is not None]
    assert usage == sum((answer.usage for answer in answers), Usage())
    assert cost_usd == (sum(costs) if len(costs) == len(answers) else None)


def count_counted_messages(messages: Sequence[Message]) -> int:
    """Returns the number of user and assistant messages."""
    return sum(not isinstance(message, ToolOutput) for message in messages)


def resume_seq(log: Sequence[AnySessionEvent], at: int) -> int:
    """Returns the last seq up to `at` after which no call is open."""
    last_seq, in_round = 0, False
    for seq, event in enumerate(log[:at], 1):
        match event:
            case AssistantMessage(calls=[_, *_]):
                in_round = True
            case ToolCallsComplete():
                in_round = False
            case _:
                pass
        last_seq = last_seq if in_round else seq
    return last_seq


def checkpoints(log: Sequence[AnySessionEvent]) -> list[tuple[str, int, int]]:
    """Returns name, point and the seq of the latest event of each checkpoint name, in order of these seqs."""
    latest: dict[str, tuple[str, int, int]] = {}
    for seq, event in enumerate(log, 1):
        if isinstance(event, CheckpointCreated):
            latest[event.name] = event.name, event.at, seq
    return sorted(latest.values(), key=lambda checkpoint: checkpoint[2])
