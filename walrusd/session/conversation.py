"""The messages of a session: as folded from its log, as the model sees them, and as forks inherit them."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from operator import is_

from walrus_protocol.content import Assistant, Content, Message, TextPart, ToolCall, ToolOutput, User
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Parent,
    Rewound,
    SessionCreated,
    ToolCallsComplete,
    ToolResult,
    UserMessage,
)
from walrusd.ports import EncodedMessage
from walrusd.session.message_tree import MessageTree, is_empty_message


class ConversationView:
    """A list of messages that grows at its end or is replaced, with a cache of their encodings."""

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self.messages = list(messages)
        self._encoded: dict[str, list[EncodedMessage]] = {}

    def append(self, message: Message) -> None:
        self.messages.append(message)

    def replace_messages(self, messages: Sequence[Message]) -> None:
        """Replaces all messages. The common prefix stays encoded; holders of the old list see no change."""
        same = sum(takewhile(bool, map(is_, self.messages, messages)))
        self.messages = list(messages)
        self._encoded = {wire: encoded[:same] for wire, encoded in self._encoded.items()}

    def render(self, wire: str, encode: Callable[[Message], EncodedMessage]) -> Sequence[EncodedMessage]:
        """Returns all messages encoded by `encode`; those already encoded under the name `wire` are reused."""
        encoded = self._encoded.setdefault(wire, [])
        encoded.extend(map(encode, self.messages[len(encoded) :]))
        return encoded


class HistoryWithSuffix:
    """A history followed by messages that belong to one call only and are never recorded."""

    def __init__(self, history: ConversationView, suffix: Sequence[Message]) -> None:
        self._history = history
        self._suffix = suffix

    @property
    def messages(self) -> Sequence[Message]:
        return [*self._history.messages, *self._suffix]

    def render(self, wire: str, encode: Callable[[Message], EncodedMessage]) -> Sequence[EncodedMessage]:
        """Returns all messages encoded by `encode`; only those of the history are cached."""
        return [*self._history.render(wire, encode), *map(encode, self._suffix)]


class Conversation:
    """The conversation of one session. `history` is complete once `missing_parent` is None."""

    def __init__(self) -> None:
        self.history = ConversationView()
        self.missing_parent: Parent | None = None
        """The point of the parent session whose messages come first and are not loaded yet."""
        self._inherited_messages: Sequence[Message] = ()
        self._tree = MessageTree()
        self._last_seq = 0
        self._requested_calls: tuple[ToolCall, ...] = ()
        self._tool_outputs: dict[str, ToolOutput] = {}

    def apply(self, seq: int, event: AnySessionEvent) -> None:
        """Folds the event at `seq` into the conversation."""
        self._last_seq = seq
        match event:
            case SessionCreated():
                self.missing_parent = event.parent
            case UserMessage():
                self._add(User(user_content_for_model(event.content, event.sender)))
            case AssistantMessage():
                self._requested_calls = event.calls
                if not is_empty_message(event):
                    self._add(
                        Assistant(
                            content=event.content, thinking=event.thinking, calls=event.calls, opaque=event.opaque
                        )
                    )
            case ToolResult():
                self._tool_outputs[event.call_id] = ToolOutput(
                    call_id=event.call_id, name=event.name, output=event.output, is_error=event.is_error
                )
            case ToolCallsComplete():
                # Results are recorded as they complete; the model sees them in the order of its calls.
                for call in self._requested_calls:
                    self._add(self._tool_outputs[call.id])
                self._requested_calls, self._tool_outputs = (), {}
            case Rewound():
                self._tree.rewind(seq, event.to)
                self.history.replace_messages([*self._inherited_messages, *self.own_messages()])
            case _:
                pass

    def own_messages(self) -> list[Message]:
        """Returns the messages of this log that the model sees, without the inherited ones."""
        return self._tree.messages_at(self._last_seq)

    def inherit(self, messages: Sequence[Message]) -> None:
        """Puts the parent's messages in front of this log's messages."""
        self._inherited_messages, self.missing_parent = messages, None
        self.history.replace_messages([*messages, *self.own_messages()])

    def _add(self, message: Message) -> None:
        self._tree.add(self._last_seq, message)
        self.history.append(message)


def user_content_for_model(content: Content, sender: str) -> Content:
    """Returns a user's content as the model sees it; it names the sender if there is one."""
    if not sender:
        return content
    if isinstance(content, str):
        return f"From {sender}:\n{content}"
    return (TextPart(f"From {sender}:"), *content)
