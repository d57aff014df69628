"""What the model sees at any point of a log. A rewind erases nothing: it lets the conversation go on from an earlier
point, so the messages of a log are a tree, and going back to a point before a rewind brings back what that took away.
"""

from bisect import bisect_right
from typing import NamedTuple

from msgspec import Struct

from walrus_protocol.content import Message
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    Rewound,
    SessionClosed,
    SessionCreated,
    ToolCallsComplete,
    UserMessage,
)


class Segment(NamedTuple):
    """Messages that came one after the other: those from `start` to before `stop`, on top of what is `below`."""

    previous: "Segment | None"
    start: int
    stop: int


class MessageTree:
    """All messages of a log in order of their seqs, and what each rewind went back to."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._seqs: list[int] = []
        self._rewind_seqs: list[int] = []
        self._segments_after_rewind: list[Segment | None] = []
        """What was seen right after each rewind."""

    def add(self, seq: int, message: Message) -> None:
        self._seqs.append(seq)
        self._messages.append(message)

    def rewind(self, seq: int, to: int) -> None:
        """From the event `seq` on, what is seen is what was seen after the event `to`, which came before it."""
        self._segments_after_rewind.append(self._last_segment_at(to))
        self._rewind_seqs.append(seq)

    def messages_at(self, seq: int) -> list[Message]:
        """What is seen after the event `seq`."""
        top, stretches = self._last_segment_at(seq), []
        while top is not None:
            stretches.append(self._messages[top.start : top.stop])
            top = top.previous
        return [message for stretch in reversed(stretches) for message in stretch]

    def _last_segment_at(self, seq: int) -> Segment | None:
        rewinds = bisect_right(self._rewind_seqs, seq)
        below, since = (
            (self._segments_after_rewind[rewinds - 1], self._rewind_seqs[rewinds - 1]) if rewinds else (None, 0)
        )
        start, stop = bisect_right(self._seqs, since), bisect_right(self._seqs, seq)
        return below if start == stop else Segment(below, start, stop)


class ResumePoint(Struct, frozen=True):
    """A point with no open call, from which a conversation may go on. `messages`: how many it has there."""

    seq: int
    messages: int


class ResumePointSearch:
    """Finds the last footing up to `at`, on the way down a log from there.

    How far down that is does not grow with the log: to the beginning of the round at most.
    """

    def __init__(self, upto: int) -> None:
        self._upto = upto
        self._resume_seq: int | None = None
        self._messages = 0
        """Messages between the footing and where it has come to."""

    def visit(self, seq: int, event: AnySessionEvent) -> ResumePoint | None:
        """The next event down; None where it does not tell."""
        match event:
            case AssistantMessage(calls=calls) if calls and self._resume_seq is None:
                self._resume_seq = (
                    seq - 1
                )  # a history that ends with calls nobody has answered is refused by every provider
            case AssistantMessage():
                self._resolve_seq()
                self._messages += not is_empty_message(event)
            case UserMessage():
                self._resolve_seq()
                self._messages += 1
            case SessionCreated(parent=parent):
                return ResumePoint(self._resolve_seq(), self._messages + (parent.messages if parent else 0))
            case Rewound(messages=known) | Done(messages=int(known)) | ToolCallsComplete(messages=int(known)):
                return ResumePoint(self._resolve_seq(), self._messages + known)
            case ToolCallsComplete() | Done() | SessionClosed():
                self._resolve_seq()
            case _:
                pass  # it may stand within a round as well as outside
        return None

    def _resolve_seq(self) -> int:
        """No call is open here, nor from here up to where it began."""
        if self._resume_seq is None:
            self._resume_seq = self._upto
        return self._resume_seq


def is_empty_message(event: AssistantMessage) -> bool:
    """It says nothing and asks for nothing. Providers refuse such a message, so no model is shown it.

    White space is nothing: a reply that is cut off may have begun with a line feed.
    """
    said = event.content.strip() if isinstance(event.content, str) else event.content
    return not said and not event.calls
