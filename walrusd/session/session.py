"""A session: its outline and its history, folded from the log through one door, `apply`."""

from walrus_protocol.content import Assistant, Content, TextPart, ToolCall, ToolOutput, User
from walrus_protocol.events import AssistantMessage, Durable, ToolCallsComplete, ToolResult, UserMessage
from walrusd.session.history import History
from walrusd.session.outline import Outline, Turn, advance


class Session:
    """What has happened, folded. Given the same events it is the same session, on any machine, at any time."""

    def __init__(self, id: int) -> None:  # noqa: A002 - the word of the design
        self.outline = Outline(id=id)
        self.history = History()
        self._asked: tuple[ToolCall, ...] = ()
        self._answers: dict[str, ToolOutput] = {}

    @property
    def id(self) -> int:
        return self.outline.id

    @property
    def turn(self) -> Turn | None:
        return self.outline.turn

    def apply(self, event: Durable, outline: Outline | None = None) -> None:
        """Fold one stamped event. Raises Refused, with nothing changed, where it may not follow.

        `outline`: what `advance` has made of it already, by whom it was checked before it was written.
        """
        self.outline = outline or advance(self.outline, event)
        match event:
            case UserMessage():
                self.history.append(User(shown(event.content, event.sender)))
            case AssistantMessage():
                self._asked = event.calls
                # Providers refuse an assistant message that says nothing and asks for nothing.
                if event.content or event.calls:
                    self.history.append(
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
                    self.history.append(self._answers[call.id])
                self._asked, self._answers = (), {}
            case _:
                pass


def shown(content: Content, sender: str) -> Content:
    """A user's content as the model sees it: the sender is named only when there is one."""
    if not sender:
        return content
    if isinstance(content, str):
        return f"From {sender}:\n{content}"
    return (TextPart(f"From {sender}:"), *content)
