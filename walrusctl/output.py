"""Writes answers to stdout, and notes and errors to stderr.

On a terminal, escape sequences are removed from text of models and tools; a pipe gets the text unchanged.
"""

import json
import os
import sys
from io import TextIOWrapper
from typing import TextIO

from walrus_protocol.client import Json
from walrusctl.formatting import wrap_text
from walrusctl.sanitize import StreamSanitizer, sanitize

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def print_answer(text: str) -> None:
    """Writes a complete text to stdout, with a newline at its end."""
    write_stdout(sanitize(text) if sys.stdout.isatty() else text)
    if not text.endswith("\n"):
        write_stdout("\n")


def print_json(value: Json) -> None:
    # ASCII only: readable in every locale, and control characters are escaped.
    write_stdout(json.dumps(value) + "\n")


def write_stdout(text: str) -> None:
    _write_encodable(sys.stdout, text)


def print_note(text: str, stream: TextIO | None = None) -> None:
    """Writes a line that is not part of the answer, by default to stderr; dim on a terminal."""
    stream = stream or sys.stderr
    line = sanitize(text) if stream.isatty() else text
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        line = f"{_DIM}{line}{_PLAIN}"
    _write_encodable(stream, line + "\n")


def print_error(message: str, hint: str = "") -> None:
    """Writes to stderr what went wrong and, in a second line, what to do about it."""
    for prefix, text in (("walrusctl: ", message), ("  hint: ", hint)):
        if text:
            lines = (wrap_text(line, terminal_width(sys.stderr), len(prefix)) for line in sanitize(text).split("\n"))
            _write_encodable(sys.stderr, prefix + "\n".join(lines) + "\n")


def terminal_width(stream: TextIO) -> int | None:
    """Returns the columns of a stream's terminal; None if there is none or its width is unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # a pipe, or an object that is not a file
        return None


class StreamPrinter:
    """Writes text to a stream piece by piece; removes even escape sequences split between pieces."""

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
            self._at_line_start = text.endswith(
                "\n"
            )  # before the write: Ctrl-C may interrupt between any two statements
            _write_encodable(self._stream, text)
            self._stream.flush()


class BestEffortStderr(TextIOWrapper):
    """A stderr that ignores write errors: after the first one, further text is discarded."""

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
    """Redirects an unwritable stream to /dev/null, so that later writes and Python's last flush succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _write_encodable(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
