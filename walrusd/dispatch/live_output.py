"""What a tool says while it runs, told to whoever listens: joined, and no more than one can read."""

from collections.abc import Callable

import trio

FLUSH_INTERVAL_S = 0.1
"""Between two tellings: to an eye it is at once."""
MAX_CHARS = 16 * 1024
"""Characters of one telling. A flood is 160 KB a second then, which the slowest of terminals can show."""


class LiveOutput:
    """Hear a piece at any time; `tell` in a task of its own passes on what was heard, until it is cancelled."""

    def __init__(self, on_output: Callable[[str], None]) -> None:
        self._on_output = on_output
        self._buffer: list[str] = []
        self._remaining = MAX_CHARS
        self._omitted = 0
        self._data_ready = trio.Event()

    def add(self, text: str) -> None:
        if not text:
            return
        if self._remaining:
            self._buffer.append(text[: self._remaining])
        self._omitted += max(0, len(text) - self._remaining)
        self._remaining = max(0, self._remaining - len(text))
        self._data_ready.set()

    async def run(self) -> None:
        while True:
            await self._data_ready.wait()
            self.flush()
            await trio.sleep(FLUSH_INTERVAL_S)

    def flush(self) -> None:
        """Pass on what was heard since the last time, if anything was."""
        if not self._buffer:
            return
        text = "".join(self._buffer)
        if self._omitted:
            text += f"\n[{self._omitted:,} characters are left out here]\n"
        self._buffer, self._remaining, self._omitted, self._data_ready = [], MAX_CHARS, 0, trio.Event()
        self._on_output(text)
