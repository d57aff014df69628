"""Computes which messages the model sees at any point of a log that contains rewinds.

A rewind erases nothing: the conversation continues from an earlier point, so the messages of a log form a tree. A
rewind to a point before another rewind brings back the messages that the other one removed.
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
    """A run of consecutive messages, `start` to before `stop`, that follows the segment `previous`."""

    previous: "Segment | None"
    start: int
    stop: int


class MessageTree:
    """All messages of a log in order of their seqs, and the segment that each rewind returned to."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._seqs: list[int] = []
        self._rewind_seqs: list[int] = []
        self._segments_after_rewind: list[Segment | None] = []
        """The last visible segment right after each rewind."""

    def add(self, seq: int, message: Message) -> None:
        """Adds the message of the event at `seq`, which is higher than all before."""
        self._seqs.append(seq)
        self._messages.append(message)

    def rewind(self, seq: int, to: int) -> None:
        """Makes the messages that were visible after event `to` visible again from event `seq` on."""
        self._segments_after_rewind.append(self._last_segment_at(to))
        self._rewind_seqs.append(seq)

    def messages_at(self, seq: int) -> list[Message]:
        """Returns the messages that the model sees after the event `seq`."""
        segment, runs = self._last_segment_at(seq), []
        while segment is not None:
            runs.append(self._messages[segment.start : segment.stop])
            segment = segment.previous
        return [message for run in reversed(runs) for message in run]

    def _last_segment_at(self, seq: int) -> Segment | None:
        rewinds = bisect_right(self._rewind_seqs, seq)
        previous, since = (
            (self._segments_after_rewind[rewinds - 1], self._rewind_seqs[rewinds - 1]) if rewinds else (None, 0)
        )
        start, stop = bisect_right(self._seqs, since), bisect_right(self._seqs, seq)
        return previous if start == stop else Segment(previous, start, stop)


class ResumePoint(Struct, frozen=True):
    """A point of a log with no open call, from which a conversation can continue.

    `messages` counts the messages of users and assistants that the model sees there.
    """

    seq: int
    messages: int


class ResumePointSearch:
    """Finds the last resume point up to `upto`, while the caller reads the log backwards from there.

    The distance does not grow with the log: the search ends at the beginning of the round at the latest.
    """

    def __init__(self, upto: int) -> None:
        self._upto = upto
        self._resume_seq: int | None = None
        self._messages = 0
        """Messages between the resume point and the event read last."""

    def visit(self, seq: int, event: AnySessionEvent) -> ResumePoint | None:
        """Takes the next event backwards. Returns the resume point, or None if more events are needed."""
        match event:
            case AssistantMessage(calls=calls) if calls and self._resume_seq is None:
                # Every provider refuses a history that ends with unanswered calls.
                self._resume_seq = seq - 1
            case AssistantMessage():
                self._resolve_seq()
                self._messages += not is_empty_message(event)
            case UserMessage():
                self._resolve_seq()
                self._messages += 1
            case SessionCreated(parent=parent):
                return ResumePoint(self._resolve_seq(), self._messages + (parent.messages if parent else 0))
            case Rewound(messages=count) | Done(messages=int(count)) | ToolCallsComplete(messages=int(count)):
                return ResumePoint(self._resolve_seq(), self._messages + count)
            case ToolCallsComplete() | Done() | SessionClosed():
                self._resolve_seq()
            case _:
                pass  # it may be inside a round or outside of one
        return None

    def _resolve_seq(self) -> int:
        """Returns the resume point's seq. It is `upto` if no unanswered call was found between here and there."""
        if self._resume_seq is None:
            self._resume_seq = self._upto
        return self._resume_seq


def is_empty_message(event: AssistantMessage) -> bool:
    """Returns whether a message has no content and no calls.

    Providers refuse such a message, so no model sees it.

    White space counts as no content: a reply that was cut off may consist of a line feed.
    """
    content = event.content.strip() if isinstance(event.content, str) else event.content
    return not content and not event.calls
