"""The two ways out: answers to stdout, and what is said about them to stderr.

What models and tools said is cleaned of escape sequences where a terminal would obey them; a pipe gets it as it is.
"""

import json
import os
import sys
from io import TextIOWrapper
from typing import Any, TextIO

from walrusctl.formatting import wrap_text
from walrusctl.sanitize import StreamSanitizer, sanitize

Json = dict[str, Any]
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def print_answer(text: str) -> None:
    """A whole text to stdout, with a newline at its end."""
    write_stdout(sanitize(text) if sys.stdout.isatty() else text)
    if not text.endswith("\n"):
        write_stdout("\n")


def print_json(value: Json) -> None:
    # ASCII: whole on any terminal and in any locale, and no control character but by its escape.
    write_stdout(json.dumps(value) + "\n")


def write_stdout(text: str) -> None:
    _write_encodable(sys.stdout, text)


def print_note(text: str, stream: TextIO | None = None) -> None:
    """A line beside the answer, dim on a terminal; on stderr unless told otherwise."""
    stream = stream or sys.stderr
    line = sanitize(text) if stream.isatty() else text
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        line = f"{_DIM}{line}{_PLAIN}"
    _write_encodable(stream, line + "\n")


def print_error(message: str, hint: str = "") -> None:
    """What went wrong, and what to do about it."""
    for head, text in (("walrusctl: ", message), ("  hint: ", hint)):
        if text:
            lines = (wrap_text(line, terminal_width(sys.stderr), len(head)) for line in sanitize(text).split("\n"))
            _write_encodable(sys.stderr, head + "\n".join(lines) + "\n")


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal that reads a stream; None where none does, or it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # a pipe; and what is no file at all
        return None


class StreamPrinter:
    """Text to a stream as it comes, piece by piece; a sequence cut in two is cleaned all the same."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._sanitizer = StreamSanitizer() if stream.isatty() else None
        self._at_line_start = True

    def write(self, piece: str) -> None:
        self._write_text(self._sanitizer.feed(piece) if self._sanitizer else piece)

    def end_line(self) -> None:
        if self._sanitizer:
            self._write_text(self._sanitizer.flush())
        if not self._at_line_start:
            self._write_text("\n")

    def _write_text(self, text: str) -> None:
        if text:
            self._at_line_start = text.endswith("\n")  # first: Ctrl-C may come between any two lines
            _write_encodable(self._stream, text)
            self._stream.flush()


class BestEffortStderr(TextIOWrapper):
    """stderr, whose failures are nobody's: where it can take no more, what is said to it goes nowhere."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            redirect_to_devnull(self)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            redirect_to_devnull(self)


def redirect_to_devnull(stream: TextIO) -> None:
    """It cannot be written any more: let what comes, and Python's own last flush, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _write_encodable(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
