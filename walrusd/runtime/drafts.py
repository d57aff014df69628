"""What models have said so far, kept beside the log while they speak.

One task for the whole runtime joins the writes: at most every 250 ms a session, and none while nobody speaks.
"""

from collections.abc import Callable

import trio

from walrusd.ports import Said, TextSaid, ThinkingSaid
from walrusd.session.mend import Draft

INTERVAL = 0.25
"""Seconds. What a crash may cost of a reply; a reply that is shorter than this is never written as a draft."""


class Speech:
    """One reply while it is being said."""

    def __init__(self, turn: int, round_: int, model: str) -> None:
        self._turn = turn
        self._round = round_
        self._model = model
        self._text: list[str] = []
        self._thinking: list[str] = []
        self.text_length = 0
        self.thinking_length = 0

    def add(self, said: Said) -> int:
        """Take a piece; the code points of its kind that were said before it."""
        match said:
            case TextSaid(text):
                at = self.text_length
                self._text.append(text)
                self.text_length += len(text)
            case ThinkingSaid(text):
                at = self.thinking_length
                self._thinking.append(text)
                self.thinking_length += len(text)
        return at

    def draft(self) -> Draft:
        return Draft(
            turn=self._turn,
            round=self._round,
            text="".join(self._text),
            thinking="".join(self._thinking),
            model=self._model,
        )


class Drafts:
    """Which sessions have unsaved speech, and the task that saves it."""

    def __init__(self) -> None:
        self._dirty: dict[int, Callable[[], None]] = {}
        self._woken = trio.Event()

    def unsaved(self, session: int, save: Callable[[], None]) -> None:
        """`save` will be called once within INTERVAL, however often this is called before that."""
        if not self._dirty:
            self._woken.set()
        self._dirty[session] = save

    def forget(self, session: int) -> None:
        """What it said last is in its log."""
        self._dirty.pop(session, None)

    async def keep(self) -> None:
        """Save until cancelled."""
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            await trio.sleep(INTERVAL)
            self._save()

    def _save(self) -> None:
        # In a frame of its own: `keep` has to hold on to nothing of a session while it waits.
        dirty, self._dirty = self._dirty, {}
        for save in dirty.values():
            save()
