"""A parser of server-sent events by the WHATWG grammar, without I/O.

The bytes may be split anywhere. Fields stay bytes, since they hold JSON and its decoder checks the UTF-8. `id` and
`retry` are for clients that reconnect; a model's answer cannot be resumed, so both are skipped.
"""

from msgspec import Struct

MAX_EVENT = 4 * 1024 * 1024
"""Maximum bytes of one event.

A chunk of an answer has some hundred; an answer sent whole in one event fits too.
"""

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(Struct, frozen=True):
    data: bytes
    event: bytes = b"message"


class EventTooLarge(Exception):
    """An event exceeded the cap; the rest of the stream is not read."""

    def __init__(self, cap: int) -> None:
        super().__init__(f"an event of the stream is larger than {cap:,} bytes")


class EventStream:
    """The parser of one stream. An incomplete event at its end is dropped, as the grammar requires."""

    def __init__(self, cap: int = MAX_EVENT) -> None:
        self._cap = cap
        self._partial_line: list[bytes] = []
        """The line that has not ended yet, in the parts in which it arrived."""
        self._skipped_prefix = _BOM
        """What is dropped if it comes next: a byte order mark, or the second half of a CRLF."""
        self._event = b""
        self._data: list[bytes] = []
        self._size = 0
        """Bytes buffered: the event's data and the unfinished line."""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Adds bytes of the stream and returns the events that they complete. Raises EventTooLarge."""
        events: list[ServerSentEvent] = []
        if self._skipped_prefix:
            data = self._skip_prefix(data)
        lines: list[bytes] = []
        if b"\n" in data or b"\r" in data:
            self._skipped_prefix = b"\n" if data.endswith(b"\r") else b""
            # bytes.splitlines splits at CR, LF and CRLF and nowhere else: exactly the line ends of the grammar.
            lines = b"".join([*self._partial_line, data]).splitlines(keepends=True)
            self._size -= sum(map(len, self._partial_line))
            self._partial_line = []
            data = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        # No function call for each line: a token is two or three lines.
        for line in lines:
            field, _, value = line.rstrip(b"\r\n").partition(b":")
            if field == b"data":
                value = value.removeprefix(b" ")
                self._data.append(value)
                self._size += len(value) + 1
                if self._size > self._cap:
                    raise EventTooLarge(self._cap)
            elif field == b"event":
                self._event = value.removeprefix(b" ")
            elif not field and not line.startswith(b":"):
                if self._data:
                    events.append(ServerSentEvent(b"\n".join(self._data), self._event or b"message"))
                self._data, self._event, self._size = [], b"", 0
        # Joined once its end arrives: a long line in small pieces must not take quadratic time.
        self._partial_line.append(data)
        self._size += len(data)
        if self._size > self._cap:
            raise EventTooLarge(self._cap)
        return events

    def _skip_prefix(self, data: bytes) -> bytes:
        """Drops the prefix that is to be skipped, once enough has arrived to tell whether it is there."""
        data = b"".join(self._partial_line) + data
        self._partial_line = []
        if len(data) < len(self._skipped_prefix) and self._skipped_prefix.startswith(data):
            self._partial_line = [data]
            return b""
        prefix, self._skipped_prefix = self._skipped_prefix, b""
        return data.removeprefix(prefix)
