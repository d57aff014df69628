"""Prints the events of a turn or a session as they arrive.

Reply text goes to stdout, other events become dim lines, and the live output of tools goes to stderr.
"""

import sys
from collections.abc import Callable
from typing import TextIO

from walrus_protocol.client import Json
from walrusctl.formatting import TRUNCATED_MARK, format_content, format_event, is_truncated
from walrusctl.output import StreamPrinter, print_note

OnEvent = Callable[[Json], None]
_SEQ_WIDTH = 5
"""Minimum columns of a seq."""


class ReplyPrinter:
    """Prints the assistant's text, each character once, from deltas, whole messages or both.

    The deltas may have gaps.
    """

    def __init__(self, printer: StreamPrinter) -> None:
        self._printer = printer
        self._round = 0
        self._printed = 0

    def print_event(self, event: Json, prefix: str = "", suffix: str = "") -> None:
        """Prints `prefix` before the first word of a message, and `suffix` after its last."""
        kind = event.get("type")
        if kind == "text_delta":
            self._start_round(event["round"])
            if event["at"] <= self._printed:  # after a gap, the rest is printed from the whole message
                self._print_text(event["text"][self._printed - event["at"] :], prefix)
        elif kind == "assistant_message":
            self._start_round(event["round"])
            text = format_content(event["content"])
            self._print_text(text[self._printed :], prefix)
            if text:
                self._printer.write(suffix)
            self._printer.end_line()
        elif kind == "done":
            self._start_round(0)

    def _start_round(self, number: int) -> None:
        if number != self._round:
            self._printer.end_line()
            self._round, self._printed = number, 0

    def _print_text(self, text: str, prefix: str) -> None:
        if text:
            self._printer.write(text if self._printed else prefix + text)
            self._printed += len(text)


class EventPrinter:
    """Prints a turn, or with `whole_session` a session with the senders and the end of each turn.

    With `show_seqs` each event has its seq before it.
    """

    def __init__(self, note_stream: TextIO, *, whole_session: bool, show_seqs: bool = False) -> None:
        self._printer = StreamPrinter(sys.stdout)
        self._tool_output = StreamPrinter(sys.stderr)
        self._reply_printer = ReplyPrinter(self._printer)
        self._note_stream = note_stream
        self._whole_session = whole_session
        self._show_seqs = show_seqs

    def __call__(self, event: Json) -> None:
        if event.get("type") == "tool_output":
            self._printer.end_line()
            self._tool_output.write(event["text"])
            return
        self._tool_output.end_line()
        seq = f"{event.get('seq') or '':>{_SEQ_WIDTH}}  " if self._show_seqs else ""
        if self._whole_session:
            self._reply_printer.print_event(event, f"{seq}assistant: ", TRUNCATED_MARK if is_truncated(event) else "")
        else:
            self._reply_printer.print_event(event)
        if self._whole_session and event.get("type") == "user_message":
            self._printer.end_line()
            self._printer.write(f"{seq}{event.get('sender') or 'user'}: {format_content(event.get('content', ''))}")
            self._printer.end_line()
        line = format_event(event)
        if line and (self._whole_session or event.get("type") != "done"):
            self._printer.end_line()
            print_note(seq + line, self._note_stream)

    def finish(self) -> None:
        """Ends an unfinished line; call it after the last event."""
        self._tool_output.end_line()
        self._printer.end_line()
