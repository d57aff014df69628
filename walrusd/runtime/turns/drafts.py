"""What models have said so far, kept beside the log while they speak.

One task for the whole runtime joins the writes: at most every 250 ms a session, and none while nobody speaks.
"""

from collections.abc import Callable

import trio

from walrusd.ports import ReplyChunk, TextChunk, ThinkingChunk
from walrusd.session.recovery import Draft

SAVE_INTERVAL_S = 0.25
"""Seconds. What a crash may cost of a reply; a reply that is shorter than this is never written as a draft."""


class ReplyBuffer:
    """One reply while it is being said."""

    def __init__(self, turn: int, round_: int, model: str) -> None:
        self._turn = turn
        self._round = round_
        self._model = model
        self._text: list[str] = []
        self._thinking: list[str] = []
        self.text_length = 0
        self.thinking_length = 0

    def add(self, chunk: ReplyChunk) -> int:
        """Take a piece; the code points of its kind that were said before it."""
        match chunk:
            case TextChunk(text):
                at = self.text_length
                self._text.append(text)
                self.text_length += len(text)
            case ThinkingChunk(text):
                at = self.thinking_length
                self._thinking.append(text)
                self.thinking_length += len(text)
        return at

    def to_draft(self) -> Draft:
        return Draft(
            turn=self._turn,
            round=self._round,
            text="".join(self._text),
            thinking="".join(self._thinking),
            model=self._model,
        )


class DraftSaver:
    """Which sessions have unsaved speech, and the task that saves it."""

    def __init__(self) -> None:
        self._dirty: dict[int, Callable[[], None]] = {}
        self._has_unsaved = trio.Event()

    def schedule_save(self, session: int, save: Callable[[], None]) -> None:
        """`save` will be called once within INTERVAL, however often this is called before that."""
        if not self._dirty:
            self._has_unsaved.set()
        self._dirty[session] = save

    def cancel_save(self, session: int) -> None:
        """What it said last is in its log."""
        self._dirty.pop(session, None)

    async def run(self) -> None:
        """Save until cancelled."""
        while True:
            await self._has_unsaved.wait()
            self._has_unsaved = trio.Event()
            await trio.sleep(SAVE_INTERVAL_S)
            self._save_all()

    def _save_all(self) -> None:
        # In a frame of its own: `keep` has to hold on to nothing of a session while it waits.
        dirty, self._dirty = self._dirty, {}
        for save in dirty.values():
            save()
