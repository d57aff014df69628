"""What a tool says while it runs, told to whoever listens: joined, and no more than one can read."""

from collections.abc import Callable

import trio

EVERY_S = 0.1
"""Between two tellings: to an eye it is at once."""
MOST = 16 * 1024
"""Characters of one telling. A flood is 160 KB a second then, which the slowest of terminals can show."""


class RunningOutput:
    """Hear a piece at any time; `tell` in a task of its own passes on what was heard, until it is cancelled."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._heard: list[str] = []
        self._room = MOST
        self._left_out = 0
        self._news = trio.Event()

    def hear(self, text: str) -> None:
        if not text:
            return
        if self._room:
            self._heard.append(text[: self._room])
        self._left_out += max(0, len(text) - self._room)
        self._room = max(0, self._room - len(text))
        self._news.set()

    async def tell(self) -> None:
        while True:
            await self._news.wait()
            self.tell_now()
            await trio.sleep(EVERY_S)

    def tell_now(self) -> None:
        """Pass on what was heard since the last time, if anything was."""
        if not self._heard:
            return
        text = "".join(self._heard)
        if self._left_out:
            text += f"\n[{self._left_out:,} characters are left out here]\n"
        self._heard, self._room, self._left_out, self._news = [], MOST, 0, trio.Event()
        self._say(text)
