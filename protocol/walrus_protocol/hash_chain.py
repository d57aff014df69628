"""The chain over the log, with the standard library only: walrusd makes it and walrusctl proves it, by the same words.

A link is a hash over an event and the link before it, so that no event can be changed, taken out or put in without
every later link being another one.
"""

import re
from hashlib import sha256
from struct import Struct
from typing import NamedTuple

INITIAL_LINK = bytes(32)
"""What the first link of a stretch follows."""
_HEAD_PATTERN = re.compile(rf"([0-9]{{1,16}}):([0-9a-fA-F]{{{2 * len(INITIAL_LINK)}}})")
_position_format = Struct(">qqq")


class ChainHead(NamedTuple):
    """The last link of a chain at some time. Who keeps it elsewhere can prove later that nothing before it changed."""

    offset: int
    link: bytes

    def __str__(self) -> str:
        return f"{self.offset}:{self.link.hex()}"


def hash_body(body: bytes) -> bytes:
    """What the chain knows of a body: all that is kept of it when the event is thrown away."""
    return sha256(body).digest()


def compute_link(previous: bytes, offset: int, session: int, seq: int, digest: bytes) -> bytes:
    """The link of the event at `offset`; `before` is that of the one before it."""
    return sha256(previous + _position_format.pack(offset, session, seq) + digest).digest()


def parse_head(text: str) -> ChainHead:
    """A head as it was printed. Raises ValueError."""
    found = _HEAD_PATTERN.fullmatch(text.strip())
    if not found:
        raise ValueError(
            f"{text!r} is no head: that is OFFSET:HEX, with {2 * len(INITIAL_LINK)} digits behind the colon"
        )
    return ChainHead(int(found[1]), bytes.fromhex(found[2]))
