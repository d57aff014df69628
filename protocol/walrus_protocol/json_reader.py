"""Reads a JSON document of any size one value at a time.

It uses the standard library only, and does no I/O: the caller reads.

    reader = JsonReader(read)                   # read() returns the next piece of the text, "" at its end
    for name in reader.members():               # of the object that comes next
        if name == "events":
            for _ in reader.elements(): ...reader.read_value()
        else:
            reader.read_value()
    reader.expect_end()

The value of each member and element must be read before the next one is requested.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import NoReturn

MAX_VALUE_CHARS = 32 * 1024 * 1024
"""Maximum characters of one value.

The longest that walrusd writes is an output of 4 MiB, six characters per byte.
"""
MAX_VALUE_DELIMITERS = 250_000
"""Maximum commas, brackets and braces of a long value; walrusd never writes a value with more.

Parsing it would take a hundred times the value's size in memory, and too much time.
"""
_SHORT_VALUE_CHARS = 64 * 1024
"""Maximum characters of a value that is parsed at once.

The end of a longer value is found first, by a scan that needs no memory.
"""
_MAX_DEPTH = 1000
"""Maximum depth of nested brackets and braces, as in the json module."""
_NUMBER_LOOKAHEAD = 2
"""Characters after the apparent end of a number that may still belong to it, as in 1e+5."""
_WHITESPACE = " \t\r\n"


class MalformedJson(Exception):
    """The text is not JSON, or not of the requested shape.

    The message has the position, in characters from 1.
    """


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not valid JSON")


_decoder = json.JSONDecoder(parse_constant=_reject_constant)


_DELIMITER = re.compile(r'["\[\]{},]')
_STRING_REST = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The rest of a string up to its closing quote, or up to the end without a final backslash."""


class _ValueScanner:
    """Finds the end of a string, an array or an object by its quotation marks and brackets.

    Its text may grow.
    """

    def __init__(self) -> None:
        self._scanned = 0
        """Characters scanned, from the beginning of the value."""
        self._in_string = False
        self._depth = 0
        self._delimiters = 0

    def find_end(self, text: str, start: int) -> int | None:
        """Returns the end of the value that begins at `start`, or None if `text` ends before it.

        Raises ValueError.
        """
        position = start + self._scanned
        while position < len(text):
            if self._in_string:
                position = self._scan_string(text, position)
                if self._in_string:
                    break
            elif delimiter := _DELIMITER.search(text, position):
                position = delimiter.end()
                self._count_delimiter(delimiter[0])
            else:
                position = len(text)
                break
            if self._is_complete():
                return position
        self._scanned = position - start
        return None

    def _is_complete(self) -> bool:
        return not self._in_string and self._depth <= 0

    def _scan_string(self, text: str, position: int) -> int:
        rest = _STRING_REST.match(text, position)
        assert rest, "the pattern also matches the empty string"
        self._in_string = text[rest.end() : rest.end() + 1] != '"'
        return rest.end() + (not self._in_string)

    def _count_delimiter(self, delimiter: str) -> None:
        self._in_string = delimiter == '"'
        if not self._in_string:
            self._depth += (delimiter in "[{") - (delimiter in "]}")
            self._delimiters += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if self._delimiters > MAX_VALUE_DELIMITERS:
            raise ValueError(f"a value has over {MAX_VALUE_DELIMITERS:,} commas, brackets and braces")


class JsonReader:
    """A reader of one document. It buffers no more of the text than the value that is being read."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._text = ""
        self._position = 0
        self._discarded = 0
        """Characters before the buffered ones."""
        self._at_end_of_input = False

    def members(self) -> Iterator[str]:
        """Iterates over the member names of the next object.

        Raises MalformedJson, also if the next value is not an object, or if a name is repeated.
        """
        self._expect("{", "an object")
        names: set[str] = set()
        more = not self._skip_if("}")
        while more:
            if self._peek() != '"':
                raise self._error_at("a name in quotes is missing")
            name: str = json.loads(self.read_value())
            if name in names:
                raise self._error_at(f"{name[:80]!r} is repeated")
            names.add(name)
            self._expect(":", "a colon")
            yield name
            more = self._has_next("}")

    def elements(self) -> Iterator[int]:
        """Iterates over the indexes of the next array, from 0.

        Raises MalformedJson, also if it is not an array.
        """
        self._expect("[", "an array")
        number, more = 0, not self._skip_if("]")
        while more:
            yield number
            number, more = number + 1, self._has_next("]")

    def read_value(self) -> str:
        """Returns the complete text of the next value. Raises MalformedJson.

        For a long value only its end is determined; the caller's parser finds its other errors.
        """
        self._peek()
        while True:
            try:
                _, end = _decoder.raw_decode(self._text, self._position)
                failure = None
            except ValueError as error:
                end, failure = len(self._text), error
            except RecursionError:
                raise self._error_at("it is nested too deeply") from None
            if len(self._text) - end > _NUMBER_LOOKAHEAD:
                break
            if len(self._text) - self._position > _SHORT_VALUE_CHARS:
                if failure is not None and self._text[self._position] not in '"[{':
                    raise self._value_error(failure)
                end = self._find_long_value_end() if failure is not None else end
                break
            # Doubles the text each time, because the value is parsed from its beginning again.
            if not self._read_more(len(self._text) - self._position):
                if failure is not None:
                    raise self._value_error(failure)
                break
        text, self._position = self._text[self._position : end], end
        return text

    def _find_long_value_end(self) -> int:
        """Returns the end of the next value, a long one."""
        scanner = _ValueScanner()
        while True:
            try:
                end = scanner.find_end(self._text, self._position)
            except ValueError as error:
                raise self._error_at(str(error)) from None
            if end is not None:
                return end
            if not self._read_more(len(self._text) - self._position):
                raise self._error_at("", len(self._text))

    def expect_end(self) -> None:
        """Raises MalformedJson if more than white space is left."""
        if self._peek():
            raise self._error_at("there is text after its end")

    def _has_next(self, closing: str) -> bool:
        if self._skip_if(closing):
            return False
        self._expect(",", f"a comma or {closing}")
        return True

    def _skip_if(self, char: str) -> bool:
        found = self._peek() == char
        self._position += found
        return found

    def _expect(self, char: str, description: str) -> None:
        if not self._skip_if(char):
            raise self._error_at(f"{description} is missing")

    def _peek(self) -> str:
        """Returns the next character that is not white space, without consuming it; "" at the end."""
        while True:
            while self._position < len(self._text):
                if (char := self._text[self._position]) not in _WHITESPACE:
                    return char
                self._position += 1
            if not self._read_more(1):
                return ""

    def _read_more(self, wanted: int) -> bool:
        """Reads at least `wanted` characters more, or up to the end; returns whether it read any.

        Raises MalformedJson if a value is longer than MAX_VALUE_CHARS.
        """
        if self._at_end_of_input:
            return False
        if len(self._text) - self._position > MAX_VALUE_CHARS:
            raise self._error_at(f"a value has over {MAX_VALUE_CHARS:,} characters")
        pieces, size = [], 0
        while size < wanted and (piece := self._read()):
            pieces.append(piece)
            size += len(piece)
        self._at_end_of_input = size < wanted
        if pieces:
            self._text, self._discarded, self._position = (
                self._text[self._position :] + "".join(pieces),
                self._discarded + self._position,
                0,
            )
        return bool(pieces)

    def _value_error(self, error: ValueError) -> MalformedJson:
        if not isinstance(error, json.JSONDecodeError):
            return self._error_at(str(error).partition(";")[0])
        if error.msg.startswith("Unterminated") and self._at_end_of_input:
            return self._error_at("", len(self._text))
        return self._error_at(error.msg[:1].lower() + error.msg[1:].removesuffix(" at"), error.pos)

    def _error_at(self, message: str, position: int | None = None) -> MalformedJson:
        position = self._position if position is None else position
        if self._at_end_of_input and position == len(self._text):
            return MalformedJson(f"it is cut off after character {self._discarded + position:,}")
        return MalformedJson(f"at character {self._discarded + position + 1:,}: {message}")
