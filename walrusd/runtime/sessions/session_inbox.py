"""The inbox of a session: its stored entries, their places, and room for messages that are being written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from walrusd.runtime.recording.recorder import Recorder
from walrusd.store.tables.inbox import InboxEntry

FORCED_CLOSE = "force"
"""Content of a queued close that ends the turns before it, instead of waiting for them."""


class SessionInbox:
    """The durable queue of one session, as the recorder has stored it."""

    def __init__(self, recorder: Recorder) -> None:
        self.entries = recorder.inbox
        self._reserved = 0
        self._first_place = 0
        self._last_place = 0

    @property
    def message_count(self) -> int:
        return sum(entry.kind != "close" for entry in self.entries)

    @property
    def reserved_count(self) -> int:
        """Number of messages that are queued or being written."""
        return self.message_count + self._reserved

    @property
    def is_empty(self) -> bool:
        """Whether nothing is queued, and no message is being written."""
        return not self.entries and not self._reserved

    @property
    def has_close(self) -> bool:
        return any(entry.kind == "close" for entry in self.entries)

    @property
    def has_forced_close(self) -> bool:
        """Whether a forced close is queued; it ends the turns before it as interrupted."""
        return any(entry.kind == "close" and entry.content == FORCED_CLOSE for entry in self.entries)

    def load(self, entries: list[InboxEntry]) -> None:
        """Sets the entries that the store has."""
        self.entries[:] = entries
        if entries:
            self._first_place, self._last_place = entries[0].place, entries[-1].place

    def next_place(self, *, first: bool = False) -> int:
        """Returns a new place: behind all others, or before them."""
        if first:
            self._first_place -= 1
            return self._first_place
        self._last_place += 1
        return self._last_place

    @contextmanager
    def reservation(self) -> Iterator[Callable[[], None]]:
        """Counts a message as queued while it is being written.

        Yields the function to call when the message is in the inbox, which counts it from then on.
        """
        self._reserved += 1
        is_reserved = True

        def release() -> None:
            nonlocal is_reserved
            self._reserved -= is_reserved
            is_reserved = False

        try:
            yield release
        finally:
            release()
