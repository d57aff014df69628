"""The messages of a session, folded from its log, as the model sees them and as forks inherit them."""

from collections.abc import Sequence

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
from walrusd.session.history import ConversationView
from walrusd.session.message_tree import MessageTree, is_empty_message


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
