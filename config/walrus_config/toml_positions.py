"""Finds the line of each key of a TOML text.

tomllib returns no lines, so the text is parsed again for an error.

It requires text that tomllib has parsed: valid syntax is assumed and not checked again.
"""

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]
"""A path from the top: keys of tables, and indexes of lists."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*+")
_KEY = re.compile(r"""(?P<bare>[A-Za-z0-9_-]+)|"(?:[^"\\]|\\.)*+"|'[^']*+'""")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_STRING = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*+""""{0,2}'''
    r"""|'''(?:[^']|'(?!''))*+''''{0,2}"""
    r"""|"(?:[^"\\]|\\.)*+"|'[^']*+'""",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")  # numbers, booleans, and times, which may have a space within


def find_key_lines(text: str) -> dict[KeyPath, int]:
    """Returns the line, from 1, of each table, key and list element of `text`."""
    return _TomlWalker(text).lines


class _TomlWalker:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._position = 0
        self._line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._array_lengths: dict[KeyPath, int] = {}
        """The number of elements so far of each array of tables."""
        self._walk_document()

    def _walk_document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._position < len(self._text):
            if self._text.startswith("[", self._position):
                table = self._walk_header()
            else:
                self._walk_pair(table)
            self._skip(_BLANK)

    def _walk_header(self) -> KeyPath:
        line, array = self._current_line(), self._text.startswith("[[", self._position)
        self._position += 2 if array else 1
        self._skip(_BLANK)
        path: KeyPath = ()
        keys = self._read_dotted_key()
        for depth, key in enumerate(keys, 1):
            path += (key,)
            self.lines.setdefault(path, line)
            if array and depth == len(keys):
                self._array_lengths[path] = self._array_lengths.get(path, 0) + 1
            if path in self._array_lengths:
                path += (self._array_lengths[path] - 1,)
        self.lines[path] = line  # replaces the line of an earlier header of a table inside this one
        self._skip(_BLANK)
        self._position += 2 if array else 1
        return path

    def _walk_pair(self, table: KeyPath) -> None:
        line = self._current_line()
        for key in self._read_dotted_key():
            table += (key,)
            self.lines.setdefault(table, line)
        self._skip(_BLANK)
        self._position += 1  # the equals sign
        self._walk_value(table)

    def _walk_value(self, key_path: KeyPath) -> None:
        self._skip(_BLANK)
        opening = self._text[self._position]
        if opening == "[":
            self._position += 1
            index = 0
            while not self._is_closed("]"):
                self.lines[*key_path, index] = self._current_line()
                self._walk_value((*key_path, index))
                index += 1
        elif opening == "{":
            self._position += 1
            while not self._is_closed("}"):
                self._walk_pair(key_path)
        elif not self._skip(_STRING):
            self._skip(_SCALAR)

    def _is_closed(self, bracket: str) -> bool:
        """Skips the separator after an element; returns True and skips the bracket after the last element."""
        self._skip(_BLANK)
        if self._text[self._position] == ",":
            self._position += 1
            self._skip(_BLANK)
        if self._text[self._position] != bracket:
            return False
        self._position += 1
        return True

    def _read_dotted_key(self) -> list[str]:
        keys = [self._read_key()]
        while self._skip(_DOT):
            keys.append(self._read_key())
        return keys

    def _read_key(self) -> str:
        found = _KEY.match(self._text, self._position)
        assert found is not None, "the text differs from the one that tomllib parsed"
        self._position = found.end()
        if found["bare"] is not None:
            return found["bare"]
        key = tomllib.loads(f"key = {found[0]}")["key"]  # tomllib decodes the escapes
        assert isinstance(key, str)
        return key

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self._text, self._position)
        if found is None:
            return False
        self._position = found.end()
        return True

    def _current_line(self) -> int:
        return bisect_right(self._line_starts, self._position)
