"""One JSON document, however large, read a value at a time, with the standard library only. No I/O: it is given pieces.

    cutter = Cutter(read)                       # read() gives the next piece of the text, "" at its end
    for name in cutter.members():               # of the object that comes next
        if name == "events":
            for _ in cutter.elements(): ...cutter.value()
        else:
            cutter.value()
    cutter.end()

What a name or an element stands for is taken, one way or the other, before the next is asked for.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import NoReturn

MAX_VALUE_CHARS = 32 * 1024 * 1024
"""Characters of one value. The longest that walrusd writes is an output of 4 MiB, six characters for each byte."""
MAX_VALUE_DELIMITERS = 250_000
"""Commas, brackets and braces of one value that is not short: what takes a hundred times its own size to be read, and
as long as nobody may wait, is nothing that walrusd writes."""
_SHORT_VALUE_CHARS = 64 * 1024
"""Characters of a value that is read at once. What is longer is measured first, which takes no memory."""
_MAX_DEPTH = 1000
"""Brackets and braces within each other, as in json itself."""
_NUMBER_LOOKAHEAD = 2
"""What looks like the end of a number may go on behind so many characters: 1e+5."""
_WHITESPACE = " \t\r\n"


class MalformedJson(Exception):
    """It is no JSON, or not of the shape that was asked for. Says where, counted in characters from 1."""


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_reject_constant)


_DELIMITER = re.compile(r'["\[\]{},]')
_STRING_REST = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""Up to the quotation mark that ends it, or as far as there is text: a backslash at its end is left."""


class _ValueScanner:
    """Where a string, an array or an object ends, by its quotation marks and brackets alone. Its text may grow."""

    def __init__(self) -> None:
        self._scanned = 0
        """Characters from its beginning on."""
        self._in_string = False
        self._depth = 0
        self._delimiters = 0

    def find_end(self, text: str, start: int) -> int | None:
        """None where `text`, in which it begins at `start`, does not have it whole. Raises ValueError."""
        at = start + self._scanned
        while at < len(text):
            if self._in_string:
                at = self._scan_string(text, at)
                if self._in_string:
                    break
            elif sign := _DELIMITER.search(text, at):
                at = sign.end()
                self._count_delimiter(sign[0])
            else:
                at = len(text)
                break
            if self._is_complete():
                return at
        self._scanned = at - start
        return None

    def _is_complete(self) -> bool:
        return not self._in_string and self._depth <= 0

    def _scan_string(self, text: str, position: int) -> int:
        rest = _STRING_REST.match(text, position)
        assert rest, "it matches nothing, too"
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
            raise ValueError(f"a value holds over {MAX_VALUE_DELIMITERS:,} commas, brackets and braces")


class JsonReader:
    """Holds no more of the text than the value that is being read."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._text = ""
        self._position = 0
        self._discarded = 0
        """Characters in front of those that are held."""
        self._at_end_of_input = False

    def members(self) -> Iterator[str]:
        """The names of an object's members. Raises Malformed, also where it is no object, or a name comes twice."""
        self._expect("{", "an object")
        seen: set[str] = set()
        more = not self._skip_if("}")
        while more:
            if self._peek() != '"':
                raise self._error_at("a name in quotes is missing")
            name: str = json.loads(self.read_value())
            if name in seen:
                raise self._error_at(f"{name[:80]!r} comes twice")
            seen.add(name)
            self._expect(":", "a colon")
            yield name
            more = self._has_next("}")

    def elements(self) -> Iterator[int]:
        """The numbers of an array's elements, from 0. Raises Malformed, also where it is no array."""
        self._expect("[", "an array")
        number, more = 0, not self._skip_if("]")
        while more:
            yield number
            number, more = number + 1, self._has_next("]")

    def read_value(self) -> str:
        """The text of the value that comes next, whole. Raises Malformed.

        Of one that is not short only the end is made out; whoever reads it finds what else may be wrong with it.
        """
        self._peek()
        while True:
            try:
                _, end = _decoder.raw_decode(self._text, self._position)
                wrong = None
            except ValueError as error:
                end, wrong = len(self._text), error
            except RecursionError:
                raise self._error_at("it is nested too deeply") from None
            if len(self._text) - end > _NUMBER_LOOKAHEAD:
                break
            if len(self._text) - self._position > _SHORT_VALUE_CHARS:
                if wrong is not None and self._text[self._position] not in '"[{':
                    raise self._value_error(wrong)
                end = self._find_long_value_end() if wrong is not None else end
                break
            # Twice as much each time, for it is read from its beginning again.
            if not self._read_more(len(self._text) - self._position):
                if wrong is not None:
                    raise self._value_error(wrong)
                break
        text, self._position = self._text[self._position : end], end
        return text

    def _find_long_value_end(self) -> int:
        """The end of the value that comes next, a long one."""
        extent = _ValueScanner()
        while True:
            try:
                end = extent.find_end(self._text, self._position)
            except ValueError as error:
                raise self._error_at(str(error)) from None
            if end is not None:
                return end
            if not self._read_more(len(self._text) - self._position):
                raise self._error_at("", len(self._text))

    def expect_end(self) -> None:
        """Raises Malformed where there is more than white space left."""
        if self._peek():
            raise self._error_at("there is more behind its end")

    def _has_next(self, closing: str) -> bool:
        if self._skip_if(closing):
            return False
        self._expect(",", f"a comma or {closing}")
        return True

    def _skip_if(self, char: str) -> bool:
        there = self._peek() == char
        self._position += there
        return there

    def _expect(self, char: str, description: str) -> None:
        if not self._skip_if(char):
            raise self._error_at(f"{description} is missing")

    def _peek(self) -> str:
        """The next character that is no white space, not taken; "" at the end."""
        while True:
            while self._position < len(self._text):
                if (sign := self._text[self._position]) not in _WHITESPACE:
                    return sign
                self._position += 1
            if not self._read_more(1):
                return ""

    def _read_more(self, wanted: int) -> bool:
        """Read at least so many characters more, where there are any. Raises Malformed beyond MOST."""
        if self._at_end_of_input:
            return False
        if len(self._text) - self._position > MAX_VALUE_CHARS:
            raise self._error_at(f"a value takes over {MAX_VALUE_CHARS:,} characters")
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
            return MalformedJson(f"it is cut off behind character {self._discarded + position:,}")
        return MalformedJson(f"at character {self._discarded + position + 1:,}: {message}")
