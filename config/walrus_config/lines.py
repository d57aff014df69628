"""Where each key of a TOML text stands. tomllib tells no lines, so the text is walked once more when one is needed.

Only for text that tomllib has taken: what is valid is not checked again, and any grammar may be relied on.
"""

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]
"""From the top: keys, and places in lists."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*+")
_KEY = re.compile(r"""(?P<bare>[A-Za-z0-9_-]+)|"(?:[^"\\]|\\.)*+"|'[^']*+'""")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_STRING = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*+""""{0,2}'''
    r"""|'''(?:[^']|'(?!''))*+''''{0,2}"""
    r"""|"(?:[^"\\]|\\.)*+"|'[^']*+'""",
    re.DOTALL,
)
_OTHER = re.compile(r"[^,\]}#\n]+")  # numbers, booleans, and times, which may have a space within


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each table, key and list element of `text`."""
    return _Walk(text).lines


class _Walk:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._last: dict[KeyPath, int] = {}
        """How many elements each array of tables has by now."""
        self._document()

    def _document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        line, array = self._line(), self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        self._skip(_BLANK)
        path: KeyPath = ()
        keys = self._dotted()
        for depth, key in enumerate(keys, 1):
            path += (key,)
            self.lines.setdefault(path, line)
            if array and depth == len(keys):
                self._last[path] = self._last.get(path, 0) + 1
            if path in self._last:
                path += (self._last[path] - 1,)
        self.lines[path] = line  # its own header says more than the first mention of a table below it
        self._skip(_BLANK)
        self._at += 2 if array else 1
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        for key in self._dotted():
            table += (key,)
            self.lines.setdefault(table, line)
        self._skip(_BLANK)
        self._at += 1  # the equals sign
        self._value(table)

    def _value(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        opening = self._text[self._at]
        if opening == "[":
            self._at += 1
            index = 0
            while not self._closed("]"):
                self.lines[*path, index] = self._line()
                self._value((*path, index))
                index += 1
        elif opening == "{":
            self._at += 1
            while not self._closed("}"):
                self._pair(path)
        elif not self._skip(_STRING):
            self._skip(_OTHER)

    def _closed(self, bracket: str) -> bool:
        """Step over what lies between two elements; True after the last."""
        self._skip(_BLANK)
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(_BLANK)
        if self._text[self._at] != bracket:
            return False
        self._at += 1
        return True

    def _dotted(self) -> list[str]:
        keys = [self._key()]
        while self._skip(_DOT):
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        found = _KEY.match(self._text, self._at)
        assert found is not None, "the text is not what tomllib took"
        self._at = found.end()
        if found["bare"] is not None:
            return found["bare"]
        key = tomllib.loads(f"key = {found[0]}")["key"]  # its escapes are tomllib's affair
        assert isinstance(key, str)
        return key

    def _skip(self, what: re.Pattern[str]) -> bool:
        found = what.match(self._text, self._at)
        if found is None:
            return False
        self._at = found.end()
        return True

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)
