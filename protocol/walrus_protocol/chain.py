"""The chain over the log, with the standard library only: walrusd makes it and walrusctl proves it, by the same words.

A link is a hash over an event and the link before it, so that no event can be changed, taken out or put in without
every later link being another one.
"""

import re
from hashlib import sha256
from struct import Struct
from typing import NamedTuple

START = bytes(32)
"""What the first link of a stretch follows."""
_HEAD = re.compile(rf"([0-9]{{1,16}}):([0-9a-fA-F]{{{2 * len(START)}}})")
_place = Struct(">qqq")


class Head(NamedTuple):
    """The last link of a chain at some time. Who keeps it elsewhere can prove later that nothing before it changed."""

    offset: int
    link: bytes

    def __str__(self) -> str:
        return f"{self.offset}:{self.link.hex()}"


def digest(body: bytes) -> bytes:
    """What the chain knows of a body: all that is kept of it when the event is thrown away."""
    return sha256(body).digest()


def link(before: bytes, offset: int, session: int, seq: int, digest: bytes) -> bytes:
    """The link of the event at `offset`; `before` is that of the one before it."""
    return sha256(before + _place.pack(offset, session, seq) + digest).digest()


def head(text: str) -> Head:
    """A head as it was printed. Raises ValueError."""
    found = _HEAD.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no head: that is OFFSET:HEX, with {2 * len(START)} digits behind the colon")
    return Head(int(found[1]), bytes.fromhex(found[2]))
