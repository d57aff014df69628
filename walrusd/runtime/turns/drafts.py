"""Drafts of replies in progress: the text so far, stored until the message is in the log.

One task for the whole runtime saves the drafts: at most one write every 250 ms per session, and none while no reply
is in progress.
"""

from collections.abc import Callable

import trio

from walrusd.ports import ReplyChunk, TextChunk, ThinkingChunk
from walrusd.session.recovery import Draft

SAVE_INTERVAL_S = 0.25
"""Seconds between saves: a crash loses at most this much of a reply.

A shorter reply is never saved as a draft.
"""


class ReplyBuffer:
    """The chunks of one reply in progress. Lengths are in code points."""

    def __init__(self, turn: int, round_: int, model: str) -> None:
        self.turn = turn
        self.round = round_
        self._model = model
        self._text: list[str] = []
        self._thinking: list[str] = []
        self.text_length = 0
        self.thinking_length = 0
        self.save_scheduled = False

    def add(self, chunk: ReplyChunk) -> int:
        """Appends a chunk; returns its offset: the number of code points of its kind before it."""
        match chunk:
            case TextChunk(text):
                offset = self.text_length
                self._text.append(text)
                self.text_length += len(text)
            case ThinkingChunk(text):
                offset = self.thinking_length
                self._thinking.append(text)
                self.thinking_length += len(text)
        return offset

    def to_draft(self) -> Draft:
        return Draft(
            turn=self.turn,
            round=self.round,
            text="".join(self._text),
            thinking="".join(self._thinking),
            model=self._model,
        )


class DraftSaver:
    """The sessions with unsaved drafts, and the task that saves them."""

    def __init__(self) -> None:
        self._dirty: dict[int, Callable[[], None]] = {}
        self._has_unsaved = trio.Event()

    def schedule_save(self, session: int, save: Callable[[], None]) -> None:
        """Calls the last `save` given for the session, once, within SAVE_INTERVAL_S."""
        if not self._dirty:
            self._has_unsaved.set()
        self._dirty[session] = save

    def cancel_save(self, session: int) -> None:
        """Cancels the save that is scheduled for the session, if there is one."""
        self._dirty.pop(session, None)

    async def run(self) -> None:
        """Saves drafts, until cancelled."""
        while True:
            await self._has_unsaved.wait()
            self._has_unsaved = trio.Event()
            await trio.sleep(SAVE_INTERVAL_S)
            self._save_all()

    def _save_all(self) -> None:
        # In a method of its own, so that `run` refers to no session while it sleeps.
        dirty, self._dirty = self._dirty, {}
        for save in dirty.values():
            save()
