"""Live events: they have `"live": true` and neither seq nor offset, and are not stored."""

from walrus_protocol.content import MessageKind, State
from walrus_protocol.events.event import Event


class MessageQueued(Event, frozen=True, kw_only=True):
    live: bool = True
    kind: MessageKind = "message"
    sender: str = ""
    position: int = 0


class TextDelta(Event, frozen=True, kw_only=True):
    """A new piece of the reply's text. `at` is the number of code points of the round's text before it."""

    live: bool = True
    text: str
    round: int
    at: int


class ThinkingDelta(Event, frozen=True, kw_only=True):
    live: bool = True
    text: str
    round: int
    at: int


class RunningOutput(Event, frozen=True, kw_only=True, tag="tool_output"):
    """New output of a running process. The `tool_result` has all of it, or refers to the rest by `ref`."""

    live: bool = True
    call_id: str
    text: str


class StateChanged(Event, frozen=True, kw_only=True):
    live: bool = True
    state: State


class Lagged(Event, frozen=True, kw_only=True):
    """`dropped` live events were not sent to this slow reader; logged events are never dropped."""

    live: bool = True
    dropped: int


AnyLiveEvent = MessageQueued | TextDelta | ThinkingDelta | RunningOutput | StateChanged | Lagged
