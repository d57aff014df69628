"""Publishes the output of a running tool as live events, joined and limited to a readable rate."""

from collections.abc import Callable

import trio

FLUSH_INTERVAL_S = 0.1
"""Seconds between two live events of one call: short enough to look immediate."""
MAX_CHARS = 16 * 1024
"""Maximum characters of one live event: a flood becomes 160 KB/s, which slow terminals can show."""


class LiveOutput:
    """Buffers output from `add`; `run`, in a task of its own, passes it on at intervals."""

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
        """Passes on the output that was added since the last flush, if there is any."""
        if not self._buffer:
            return
        text = "".join(self._buffer)
        if self._omitted:
            text += f"\n[{self._omitted:,} characters are omitted here]\n"
        self._buffer, self._remaining, self._omitted, self._data_ready = [], MAX_CHARS, 0, trio.Event()
        self._on_output(text)
