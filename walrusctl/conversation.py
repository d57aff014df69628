"""A conversation as its events tell it: text to stdout as it comes, the rest as dim lines beside it.

What a tool says while it runs goes to stderr.
"""

import sys
from collections.abc import Callable
from typing import TextIO

from walrus_protocol.client import Json
from walrusctl.output import Flow, note
from walrusctl.render import CUT_OFF, event_line, is_cut_off, plain

Listener = Callable[[Json], None]
_SEQ = 5
"""Columns that a seq has at least."""


class Speech:
    """What the assistant says, each character once: as deltas, as whole messages, or as both with gaps between."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._round = 0
        self._said = 0

    def hear(self, event: Json, speaker: str = "", end: str = "") -> None:
        """`speaker` goes before the first word of a message, and `end` behind its last."""
        kind = event.get("type")
        if kind == "text_delta":
            self._enter(event["round"])
            if event["at"] <= self._said:  # after a gap the rest waits for the whole message
                self._say(event["text"][self._said - event["at"] :], speaker)
        elif kind == "assistant_message":
            self._enter(event["round"])
            text = plain(event["content"])
            self._say(text[self._said :], speaker)
            if text:
                self._flow.write(end)
            self._flow.end_line()
        elif kind == "done":
            self._enter(0)

    def _enter(self, number: int) -> None:
        if number != self._round:
            self._flow.end_line()
            self._round, self._said = number, 0

    def _say(self, text: str, speaker: str) -> None:
        if text:
            self._flow.write(text if self._said else speaker + text)
            self._said += len(text)


class Shown:
    """Shows a turn, or with `everything` a whole session: then who spoke, and how each turn ended.

    With `seqs` each event has its seq before it.
    """

    def __init__(self, notes: TextIO, *, everything: bool, seqs: bool = False) -> None:
        self._flow = Flow(sys.stdout)
        self._running = Flow(sys.stderr)
        self._speech = Speech(self._flow)
        self._notes = notes
        self._everything = everything
        self._seqs = seqs

    def __call__(self, event: Json) -> None:
        if event.get("type") == "tool_output":
            self._flow.end_line()
            self._running.write(event["text"])
            return
        self._running.end_line()
        seq = f"{event.get('seq') or '':>{_SEQ}}  " if self._seqs else ""
        if self._everything:
            self._speech.hear(event, f"{seq}assistant: ", CUT_OFF if is_cut_off(event) else "")
        else:
            self._speech.hear(event)
        if self._everything and event.get("type") == "user_message":
            self._flow.end_line()
            self._flow.write(f"{seq}{event.get('sender') or 'user'}: {plain(event.get('content', ''))}")
            self._flow.end_line()
        line = event_line(event)
        if line and (self._everything or event.get("type") != "done"):
            self._flow.end_line()
            note(seq + line, self._notes)

    def end(self) -> None:
        """Nothing more comes; a line that has begun is ended."""
        self._running.end_line()
        self._flow.end_line()
