"""What a tool says, however much it is: counted whole, kept up to a number, and shown to the model in part."""

MAX_STORED_BYTES = 4 * 1024 * 1024
"""Bytes of one output that are kept: as many as a message may have. With every running turn at it that is 256 MiB of
memory. What is beyond is counted and dropped, but for the end that the model is shown."""


class BoundedOutput:
    """Takes a text piece by piece. `cap` is how many bytes of it a model may be shown."""

    def __init__(self, cap: int) -> None:
        self.size = 0
        """Bytes of the whole."""
        self._cap = cap
        self._stored = bytearray()
        self._tail = bytearray()
        """What comes behind `kept`, or the last of it."""

    def add(self, text: str) -> None:
        """What is no UTF-8 (half of a surrogate pair, as in odd file names) becomes "?": nothing could carry it."""
        data = text.encode("utf-8", "replace")
        self.size += len(data)
        room = 0 if self._tail else MAX_STORED_BYTES - len(self._stored)
        if len(data) > room:
            room = _cut_at_character(data, room)
            self._tail += data[room:]
            if len(self._tail) > 2 * self._cap:
                del self._tail[: -self._cap]
        self._stored += data[:room]

    @property
    def stored(self) -> bytes:
        """The whole, or its first bytes where it is larger than what is kept."""
        return bytes(self._stored)

    def fits(self, note: str = "") -> bool:
        """Whether a model can be shown all of it, with `note` at its end."""
        return self.size + len(self._note_on_own_line(note).encode()) <= self._cap

    def format_for_model(self, note: str = "", ref: str | None = None) -> str:
        """As much of its beginning and its end as fits, with a word in between, and `note` at its end."""
        note = self._note_on_own_line(note)
        if self.fits(note):
            return self._stored.decode() + note
        room = max(0, self._cap - len(note.encode()) - len(self._omission_text(self.size, ref).encode()))
        head = self._stored[: room // 2].decode("utf-8", "ignore")
        tail = self._last_bytes(room - room // 2).decode("utf-8", "ignore")
        return head + self._omission_text(self.size - len(head.encode()) - len(tail.encode()), ref) + tail + note

    def _note_on_own_line(self, note: str) -> str:
        within_a_line = self.size and not (self._tail or self._stored).endswith(b"\n")
        return f"\n{note}" if note and within_a_line and not note.startswith("\n") else note

    def _last_bytes(self, size: int) -> bytearray:
        """The last of it, which may begin in the midst of a character."""
        last = self._tail if len(self._tail) >= size else self._stored[-size:] + self._tail
        return last[len(last) - size :]

    def _omission_text(self, omitted: int, ref: str | None) -> str:
        what = f"{omitted:,} of {self.size:,} bytes are left out here"
        if ref is None:
            return f"\n[{what}]\n"
        kept = "the whole" if self.size == len(self._stored) else f"the first {len(self._stored):,} bytes"
        return f"\n[{what}; the user has {kept} as output {ref}]\n"


def _cut_at_character(data: bytes, max_bytes: int) -> int:
    """At most `room`, and not in the midst of a character."""
    while max_bytes > 0 and data[max_bytes] & 0xC0 == 0x80:
        max_bytes -= 1
    return max_bytes
