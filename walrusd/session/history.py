"""The messages of a conversation in order, each encoded once for each provider wire."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from operator import is_

from walrus_protocol.content import Message
from walrusd.ports import EncodedMessage


class ConversationView:
    """A list of messages that grows at its end or is replaced, with a cache of their encodings."""

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self._messages = list(messages)
        self._encoded: dict[str, list[EncodedMessage]] = {}

    @property
    def messages(self) -> Sequence[Message]:
        return self._messages

    def append(self, message: Message) -> None:
        self._messages.append(message)

    def replace_messages(self, messages: Sequence[Message]) -> None:
        """Replaces all messages. The common prefix stays encoded; holders of the old list see no change."""
        same = sum(takewhile(bool, map(is_, self._messages, messages)))
        self._messages = list(messages)
        self._encoded = {wire: encoded[:same] for wire, encoded in self._encoded.items()}

    def render(self, wire: str, encode: Callable[[Message], EncodedMessage]) -> Sequence[EncodedMessage]:
        """Returns all messages encoded by `encode`; those already encoded under the name `wire` are reused."""
        encoded = self._encoded.setdefault(wire, [])
        encoded.extend(encode(message) for message in self._messages[len(encoded) :])
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
