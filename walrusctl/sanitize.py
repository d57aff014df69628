"""Removes escape sequences and control characters from text, so that no terminal obeys them.

The text comes from models and tools.
Newline and tab stay. The functions are pure; `StreamSanitizer` takes the text in pieces that may be cut anywhere.
"""

import re

_ESCAPE_SEQUENCE = re.compile(
    r"""
      (?:\x1b\[ | \x9b) [0-?]* [ -/]* [@-~]                                         # CSI: colours, cursor, modes
    | (?:\x1b\] | \x9d) [^\x07\x1b\x9c]* (?:\x07 | \x1b\\ | \x9c)                   # OSC: titles, links, clipboard
    | (?:\x1b[PX^_] | [\x90\x98\x9e\x9f]) [^\x1b\x9c]* (?:\x1b\\ | \x9c)            # DCS, SOS, PM, APC
    | \x1b [ -/]* [0-OQ-WYZ\\`-~]                                                   # two characters: charsets, reset
    """,
    re.VERBOSE,
)
_PARTIAL_SEQUENCE = re.compile(
    r"""
    (?: (?:\x1b\[ | \x9b) [0-?]* [ -/]*
      | (?:\x1b\] | \x9d) [^\x07\x1b\x9c]* \x1b?
      | (?:\x1b[PX^_] | [\x90\x98\x9e\x9f]) [^\x1b\x9c]* \x1b?
      | \x1b [ -/]* ) \Z
    """,
    re.VERBOSE,
)
_DROP_CONTROLS = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)])
_CONTROLS_TO_SPACES = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")
_MAX_SEQUENCE = 4096
"""Maximum characters of an escape sequence.

Anything longer is text after a stray escape character, and is shown.
"""


def sanitize(text: str) -> str:
    return _ESCAPE_SEQUENCE.sub("", text).translate(_DROP_CONTROLS)


def to_single_line(text: str) -> str:
    """Returns the text in one line, also for a pipe, with spaces instead of control characters.

    Escape sequences are removed.
    """
    return " ".join(_ESCAPE_SEQUENCE.sub("", text).translate(_CONTROLS_TO_SPACES).split())


class StreamSanitizer:
    """`sanitize` for text in pieces: an incomplete escape sequence is held back until it ends."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, piece: str) -> str:
        text = _ESCAPE_SEQUENCE.sub("", self._pending + piece)
        partial = _PARTIAL_SEQUENCE.search(text)
        if partial and len(text) - partial.start() <= _MAX_SEQUENCE:
            self._pending = text[partial.start() :]
            text = text[: partial.start()]
        else:
            self._pending = ""
        return text.translate(_DROP_CONTROLS)

    def flush(self) -> str:
        """Returns the printable text of a sequence that never ended, so that no part of an answer is hidden."""
        rest, self._pending = self._pending, ""
        return rest.translate(_DROP_CONTROLS)
