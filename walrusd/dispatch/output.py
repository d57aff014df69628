"""What a tool says, however much it is: counted whole, kept up to a number, and shown to the model in part."""

KEPT = 4 * 1024 * 1024
"""Bytes of one output that are kept: as many as a message may have. With every running turn at it that is 256 MiB of
memory. What is beyond is counted and dropped, but for the end that the model is shown."""


class Output:
    """Takes a text piece by piece. `cap` is how many bytes of it a model may be shown."""

    def __init__(self, cap: int) -> None:
        self.size = 0
        """Bytes of the whole."""
        self._cap = cap
        self._kept = bytearray()
        self._end = bytearray()
        """What comes behind `kept`, or the last of it."""

    def add(self, text: str) -> None:
        """What is no UTF-8 (half of a surrogate pair, as in odd file names) becomes "?": nothing could carry it."""
        data = text.encode("utf-8", "replace")
        self.size += len(data)
        room = 0 if self._end else KEPT - len(self._kept)
        if len(data) > room:
            room = _whole_characters(data, room)
            self._end += data[room:]
            if len(self._end) > 2 * self._cap:
                del self._end[: -self._cap]
        self._kept += data[:room]

    @property
    def kept(self) -> bytes:
        """The whole, or its first bytes where it is larger than what is kept."""
        return bytes(self._kept)

    def fits(self, note: str = "") -> bool:
        """Whether a model can be shown all of it, with `note` at its end."""
        return self.size + len(self._last_line(note).encode()) <= self._cap

    def shown(self, note: str = "", ref: str | None = None) -> str:
        """As much of its beginning and its end as fits, with a word in between, and `note` at its end."""
        note = self._last_line(note)
        if self.fits(note):
            return self._kept.decode() + note
        room = max(0, self._cap - len(note.encode()) - len(self._gap(self.size, ref).encode()))
        head = self._kept[: room // 2].decode("utf-8", "ignore")
        tail = self._last(room - room // 2).decode("utf-8", "ignore")
        return head + self._gap(self.size - len(head.encode()) - len(tail.encode()), ref) + tail + note

    def _last_line(self, note: str) -> str:
        within_a_line = self.size and not (self._end or self._kept).endswith(b"\n")
        return f"\n{note}" if note and within_a_line and not note.startswith("\n") else note

    def _last(self, size: int) -> bytearray:
        """The last of it, which may begin in the midst of a character."""
        last = self._end if len(self._end) >= size else self._kept[-size:] + self._end
        return last[len(last) - size :]

    def _gap(self, left_out: int, ref: str | None) -> str:
        what = f"{left_out:,} of {self.size:,} bytes are left out here"
        if ref is None:
            return f"\n[{what}]\n"
        kept = "the whole" if self.size == len(self._kept) else f"the first {len(self._kept):,} bytes"
        return f"\n[{what}; the user has {kept} as output {ref}]\n"


def _whole_characters(data: bytes, room: int) -> int:
    """At most `room`, and not in the midst of a character."""
    while room > 0 and data[room] & 0xC0 == 0x80:
        room -= 1
    return room
