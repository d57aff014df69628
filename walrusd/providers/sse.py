"""Server-sent events by the WHATWG grammar, without I/O: bytes cut anywhere go in, whole events come out.

Fields are left as bytes, since what is in them is JSON and its decoder checks the UTF-8. `id` and `retry` are for
clients that reconnect; a model's answer cannot be taken up again, so both are skipped.
"""

from msgspec import Struct

MAX_EVENT = 4 * 1024 * 1024
"""Bytes in one event. A chunk of an answer is some hundred bytes; an answer sent whole in one event fits, too."""

_BOM = b"\xef\xbb\xbf"


class ServerEvent(Struct, frozen=True):
    data: bytes
    event: bytes = b"message"


class EventTooLarge(Exception):
    """An event grew beyond the cap; what follows it is not read."""

    def __init__(self, cap: int) -> None:
        super().__init__(f"an event of the stream is larger than {cap:,} bytes")


class EventStream:
    """One stream's parser. What is unfinished when the stream ends is no event, as the grammar wants it."""

    def __init__(self, cap: int = MAX_EVENT) -> None:
        self._cap = cap
        self._rest: list[bytes] = []
        """The line that has not ended yet, in the parts it came in."""
        self._start = True
        self._after_cr = False
        self._event = b""
        self._data: list[bytes] = []
        self._size = 0
        """Bytes held, of the event and of the unfinished line."""

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that are whole by now. Raises EventTooLarge."""
        if self._after_cr and data:
            # The CR that ended the last line may be the first half of a CRLF.
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if self._start:
            data = b"".join(self._rest) + data
            self._rest = []
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._rest = [data]
                return []
            self._start = False
            data = data.removeprefix(_BOM)
        if b"\n" not in data and b"\r" not in data:
            self._hold(data)  # joined once its end is there: a long line in small pieces must not cost their square
            return []
        self._after_cr = data.endswith(b"\r")
        # bytes.splitlines ends lines at CR, LF and CRLF and nowhere else: just the grammar's line ends.
        lines = b"".join([*self._rest, data]).splitlines(keepends=True)
        unfinished = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        self._size -= sum(map(len, self._rest))
        self._rest = []
        events = [event for line in lines if (event := self._line(line.rstrip(b"\r\n"))) is not None]
        self._hold(unfinished)
        return events

    def _hold(self, part: bytes) -> None:
        self._rest.append(part)
        self._grow(len(part))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._cap:
            raise EventTooLarge(self._cap)

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._grow(len(value) + 1)
        elif field == b"event":
            self._event = value.removeprefix(b" ")
        return None

    def _dispatch(self) -> ServerEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], b"", 0
        if not data:
            return None
        return ServerEvent(b"\n".join(data), event or b"message")
