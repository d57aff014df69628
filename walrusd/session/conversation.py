"""The messages of a session, folded from its log: what the model sees, and what a fork inherits."""

from collections.abc import Sequence

from walrus_protocol.content import Assistant, Content, Message, TextPart, ToolCall, ToolOutput, User
from walrus_protocol.events import (
    AssistantMessage,
    Durable,
    Parent,
    Rewound,
    SessionCreated,
    ToolCallsComplete,
    ToolResult,
    UserMessage,
)
from walrusd.session.branch import Branches, silent
from walrusd.session.history import History


class Conversation:
    """`history` is what the model sees, once `missing` is None."""

    def __init__(self) -> None:
        self.history = History()
        self.missing: Parent | None = None
        """Where to find the messages that come before its own and are not here yet."""
        self._inherited: Sequence[Message] = ()
        self._branches = Branches()
        self._last_seq = 0
        self._asked: tuple[ToolCall, ...] = ()
        self._answers: dict[str, ToolOutput] = {}

    def apply(self, seq: int, event: Durable) -> None:
        self._last_seq = seq
        match event:
            case SessionCreated():
                self.missing = event.parent
            case UserMessage():
                self._add(User(shown(event.content, event.sender)))
            case AssistantMessage():
                self._asked = event.calls
                if not silent(event):
                    self._add(
                        Assistant(
                            content=event.content, thinking=event.thinking, calls=event.calls, opaque=event.opaque
                        )
                    )
            case ToolResult():
                self._answers[event.call_id] = ToolOutput(
                    call_id=event.call_id, name=event.name, output=event.output, is_error=event.is_error
                )
            case ToolCallsComplete():
                # Results are recorded as they complete; the model sees them in the order it asked.
                for call in self._asked:
                    self._add(self._answers[call.id])
                self._asked, self._answers = (), {}
            case Rewound():
                self._branches.rewind(seq, event.to)
                self.history.become([*self._inherited, *self.own()])
            case _:
                pass

    def own(self) -> list[Message]:
        """What the model sees of this log, without what comes before it."""
        return self._branches.at(self._last_seq)

    def inherit(self, messages: Sequence[Message]) -> None:
        """Have what was missing come first."""
        self._inherited, self.missing = messages, None
        self.history.become([*messages, *self.own()])

    def _add(self, message: Message) -> None:
        self._branches.add(self._last_seq, message)
        self.history.append(message)


def shown(content: Content, sender: str) -> Content:
    """A user's content as the model sees it: the sender is named only when there is one."""
    if not sender:
        return content
    if isinstance(content, str):
        return f"From {sender}:\n{content}"
    return (TextPart(f"From {sender}:"), *content)
