"""The conversation as the model sees it, in order, with each message encoded once for each wire."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from operator import is_

from walrus_protocol.content import Message


class ConversationView:
    """A list of messages that grows at its end, or becomes another one."""

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self._messages = list(messages)
        self._encoded: dict[str, list[bytes]] = {}

    @property
    def messages(self) -> Sequence[Message]:
        return self._messages

    def append(self, message: Message) -> None:
        self._messages.append(message)

    def replace_messages(self, messages: Sequence[Message]) -> None:
        """Have these messages. What both have in front stays encoded; who holds the old list sees no change."""
        same = sum(takewhile(bool, map(is_, self._messages, messages)))
        self._messages = list(messages)
        self._encoded = {wire: done[:same] for wire, done in self._encoded.items()}

    def render(self, wire: str, encode: Callable[[Message], bytes]) -> Sequence[bytes]:
        """All messages as `encode` gives them; those encoded before under the name `wire` are not encoded again."""
        done = self._encoded.setdefault(wire, [])
        done.extend(encode(message) for message in self._messages[len(done) :])
        return done


class HistoryWithSuffix:
    """A history with messages behind it that belong to one call only and are never recorded."""

    def __init__(self, history: ConversationView, suffix: Sequence[Message]) -> None:
        self._history = history
        self._suffix = suffix

    @property
    def messages(self) -> Sequence[Message]:
        return [*self._history.messages, *self._suffix]

    def render(self, wire: str, encode: Callable[[Message], bytes]) -> Sequence[bytes]:
        return [*self._history.render(wire, encode), *map(encode, self._suffix)]
