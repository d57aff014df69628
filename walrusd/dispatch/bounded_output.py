"""Collects the output of a tool call in bounded memory, and formats a part of it for the model."""

MAX_STORED_BYTES = 4 * 1024 * 1024
"""Maximum bytes stored of one output: 256 MiB of memory if every running turn fills it.

Bytes beyond it are counted and dropped, except for the end, which is shown to the model.
"""


class BoundedOutput:
    """Collects a text piece by piece. `cap` is the maximum number of bytes that is shown to a model."""

    def __init__(self, cap: int) -> None:
        self.size = 0
        """Bytes of the whole output, dropped ones included."""
        self._cap = cap
        self._stored = bytearray()
        self._tail = bytearray()
        """The output after `stored`, or the end of it."""

    def add(self, text: str) -> None:
        """Adds a piece; a lone surrogate, as in odd file names, becomes "?", since UTF-8 cannot encode it."""
        data = text.encode("utf-8", "replace")
        self.size += len(data)
        capacity = 0 if self._tail else MAX_STORED_BYTES - len(self._stored)
        if len(data) > capacity:
            capacity = _cut_at_character(data, capacity)
            self._tail += data[capacity:]
            if len(self._tail) > 2 * self._cap:
                del self._tail[: -self._cap]
        self._stored += data[:capacity]

    @property
    def stored(self) -> bytes:
        """Returns the whole output, or its first bytes if it is larger than MAX_STORED_BYTES."""
        return bytes(self._stored)

    def fits(self, note: str = "") -> bool:
        """Returns whether the whole output, with `note` at its end, can be shown to a model."""
        return self.size + len(self._note_on_own_line(note).encode()) <= self._cap

    def format_for_model(self, note: str = "", ref: str | None = None) -> str:
        """Returns the output followed by `note`; if it is too long, its middle is replaced.

        The replacement states what is omitted, and the `ref` of the stored output.
        """
        note = self._note_on_own_line(note)
        if self.fits(note):
            return self._stored.decode() + note
        budget = max(0, self._cap - len(note.encode()) - len(self._omission_text(self.size, ref).encode()))
        head = self._stored[: budget // 2].decode("utf-8", "ignore")
        tail = self._last_bytes(budget - budget // 2).decode("utf-8", "ignore")
        return head + self._omission_text(self.size - len(head.encode()) - len(tail.encode()), ref) + tail + note

    def _note_on_own_line(self, note: str) -> str:
        inside_a_line = self.size and not (self._tail or self._stored).endswith(b"\n")
        return f"\n{note}" if note and inside_a_line and not note.startswith("\n") else note

    def _last_bytes(self, size: int) -> bytearray:
        """Returns the last `size` bytes, which may begin inside a character."""
        last = self._tail if len(self._tail) >= size else self._stored[-size:] + self._tail
        return last[len(last) - size :]

    def _omission_text(self, omitted: int, ref: str | None) -> str:
        omission = f"{omitted:,} of {self.size:,} bytes are omitted here"
        if ref is None:
            return f"\n[{omission}]\n"
        part = "the whole output" if self.size == len(self._stored) else f"its first {len(self._stored):,} bytes"
        return f"\n[{omission}; the user can read {part} as output {ref}]\n"


def _cut_at_character(data: bytes, max_bytes: int) -> int:
    """Returns the largest size up to `max_bytes` that does not split a character."""
    while max_bytes > 0 and data[max_bytes] & 0xC0 == 0x80:
        max_bytes -= 1
    return max_bytes
