"""Text from models and tools without what a terminal would obey: escape sequences and control characters.

Newline and tab stay. A pure filter; `Cleaner` takes the text in pieces, cut anywhere.
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
"""Characters that a sequence may take. What goes on longer is text behind a stray escape, and is shown."""


def sanitize(text: str) -> str:
    return _ESCAPE_SEQUENCE.sub("", text).translate(_DROP_CONTROLS)


def to_single_line(text: str) -> str:
    """The text in one line, whoever reads it: without sequences, a space for what else is not printed."""
    return " ".join(_ESCAPE_SEQUENCE.sub("", text).translate(_CONTROLS_TO_SPACES).split())


class StreamSanitizer:
    """`clean` for a text that comes in pieces: a sequence that has begun is kept until it ends."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, piece: str) -> str:
        text = _ESCAPE_SEQUENCE.sub("", self._pending + piece)
        begun = _PARTIAL_SEQUENCE.search(text)
        if begun and len(text) - begun.start() <= _MAX_SEQUENCE:
            self._pending = text[begun.start() :]
            text = text[: begun.start()]
        else:
            self._pending = ""
        return text.translate(_DROP_CONTROLS)

    def flush(self) -> str:
        """What is left of a sequence that never ended: its text, for nothing of an answer may be hidden by it."""
        kept, self._pending = self._pending, ""
        return kept.translate(_DROP_CONTROLS)
