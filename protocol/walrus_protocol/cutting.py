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

MOST = 32 * 1024 * 1024
"""Characters of one value. The longest that walrusd writes is an output of 4 MiB, six characters for each byte."""
MOST_SIGNS = 250_000
"""Commas, brackets and braces of one value that is not short: what takes a hundred times its own size to be read, and
as long as nobody may wait, is nothing that walrusd writes."""
_SHORT = 64 * 1024
"""Characters of a value that is read at once. What is longer is measured first, which takes no memory."""
_DEEPEST = 1000
"""Brackets and braces within each other, as in json itself."""
_AHEAD = 2
"""What looks like the end of a number may go on behind so many characters: 1e+5."""
_SPACE = " \t\r\n"


class Malformed(Exception):
    """It is no JSON, or not of the shape that was asked for. Says where, counted in characters from 1."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


_SIGN = re.compile(r'["\[\]{},]')
_STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""Up to the quotation mark that ends it, or as far as there is text: a backslash at its end is left."""


class _Extent:
    """Where a string, an array or an object ends, by its quotation marks and brackets alone. Its text may grow."""

    def __init__(self) -> None:
        self._looked_at = 0
        """Characters from its beginning on."""
        self._in_string = False
        self._depth = 0
        self._signs = 0

    def end(self, text: str, start: int) -> int | None:
        """None where `text`, in which it begins at `start`, does not have it whole. Raises ValueError."""
        at = start + self._looked_at
        while at < len(text):
            if self._in_string:
                at = self._rest_of_string(text, at)
                if self._in_string:
                    break
            elif sign := _SIGN.search(text, at):
                at = sign.end()
                self._count(sign[0])
            else:
                at = len(text)
                break
            if self._is_whole():
                return at
        self._looked_at = at - start
        return None

    def _is_whole(self) -> bool:
        return not self._in_string and self._depth <= 0

    def _rest_of_string(self, text: str, at: int) -> int:
        rest = _STRING.match(text, at)
        assert rest, "it matches nothing, too"
        self._in_string = text[rest.end() : rest.end() + 1] != '"'
        return rest.end() + (not self._in_string)

    def _count(self, sign: str) -> None:
        self._in_string = sign == '"'
        if not self._in_string:
            self._depth += (sign in "[{") - (sign in "]}")
            self._signs += 1
        if self._depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if self._signs > MOST_SIGNS:
            raise ValueError(f"a value holds over {MOST_SIGNS:,} commas, brackets and braces")


class Cutter:
    """Holds no more of the text than the value that is being read."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._text = ""
        self._at = 0
        self._before = 0
        """Characters in front of those that are held."""
        self._ended = False

    def members(self) -> Iterator[str]:
        """The names of an object's members. Raises Malformed, also where it is no object, or a name comes twice."""
        self._take("{", "an object")
        seen: set[str] = set()
        more = not self._passed("}")
        while more:
            if self._next() != '"':
                raise self._wrong("a name in quotes is missing")
            name: str = json.loads(self.value())
            if name in seen:
                raise self._wrong(f"{name[:80]!r} comes twice")
            seen.add(name)
            self._take(":", "a colon")
            yield name
            more = self._goes_on("}")

    def elements(self) -> Iterator[int]:
        """The numbers of an array's elements, from 0. Raises Malformed, also where it is no array."""
        self._take("[", "an array")
        number, more = 0, not self._passed("]")
        while more:
            yield number
            number, more = number + 1, self._goes_on("]")

    def value(self) -> str:
        """The text of the value that comes next, whole. Raises Malformed.

        Of one that is not short only the end is made out; whoever reads it finds what else may be wrong with it.
        """
        self._next()
        while True:
            try:
                _, end = _decoder.raw_decode(self._text, self._at)
                wrong = None
            except ValueError as error:
                end, wrong = len(self._text), error
            except RecursionError:
                raise self._wrong("it is nested too deeply") from None
            if len(self._text) - end > _AHEAD:
                break
            if len(self._text) - self._at > _SHORT:
                if wrong is not None and self._text[self._at] not in '"[{':
                    raise self._no_value(wrong)
                end = self._measured() if wrong is not None else end
                break
            # Twice as much each time, for it is read from its beginning again.
            if not self._more(len(self._text) - self._at):
                if wrong is not None:
                    raise self._no_value(wrong)
                break
        text, self._at = self._text[self._at : end], end
        return text

    def _measured(self) -> int:
        """The end of the value that comes next, a long one."""
        extent = _Extent()
        while True:
            try:
                end = extent.end(self._text, self._at)
            except ValueError as error:
                raise self._wrong(str(error)) from None
            if end is not None:
                return end
            if not self._more(len(self._text) - self._at):
                raise self._wrong("", len(self._text))

    def end(self) -> None:
        """Raises Malformed where there is more than white space left."""
        if self._next():
            raise self._wrong("there is more behind its end")

    def _goes_on(self, closing: str) -> bool:
        if self._passed(closing):
            return False
        self._take(",", f"a comma or {closing}")
        return True

    def _passed(self, sign: str) -> bool:
        there = self._next() == sign
        self._at += there
        return there

    def _take(self, sign: str, named: str) -> None:
        if not self._passed(sign):
            raise self._wrong(f"{named} is missing")

    def _next(self) -> str:
        """The next character that is no white space, not taken; "" at the end."""
        while True:
            while self._at < len(self._text):
                if (sign := self._text[self._at]) not in _SPACE:
                    return sign
                self._at += 1
            if not self._more(1):
                return ""

    def _more(self, wanted: int) -> bool:
        """Read at least so many characters more, where there are any. Raises Malformed beyond MOST."""
        if self._ended:
            return False
        if len(self._text) - self._at > MOST:
            raise self._wrong(f"a value takes over {MOST:,} characters")
        pieces, size = [], 0
        while size < wanted and (piece := self._read()):
            pieces.append(piece)
            size += len(piece)
        self._ended = size < wanted
        if pieces:
            self._text, self._before, self._at = self._text[self._at :] + "".join(pieces), self._before + self._at, 0
        return bool(pieces)

    def _no_value(self, wrong: ValueError) -> Malformed:
        if not isinstance(wrong, json.JSONDecodeError):
            return self._wrong(str(wrong).partition(";")[0])
        if wrong.msg.startswith("Unterminated") and self._ended:
            return self._wrong("", len(self._text))
        return self._wrong(wrong.msg[:1].lower() + wrong.msg[1:].removesuffix(" at"), wrong.pos)

    def _wrong(self, what: str, at: int | None = None) -> Malformed:
        at = self._at if at is None else at
        if self._ended and at == len(self._text):
            return Malformed(f"it is cut off behind character {self._before + at:,}")
        return Malformed(f"at character {self._before + at + 1:,}: {what}")
