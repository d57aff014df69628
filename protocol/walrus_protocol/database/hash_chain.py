"""The hash chain over the log: a row in `link` for each event, written in the transaction of the event.

A link is a hash over an event and the link before it. So every change, removal or insertion of an event changes all
later links. A segment of the chain is the range of events written while the chain was on. `counter` has a row for each
segment, "chain FIRST": its name contains the offset of the first event, its value is the offset of the last one, or 0
while the segment is open. With these, `verify_chain` notices missing links: the first, the last or all of them.
"""

import re
from hashlib import sha256
from struct import Struct
from typing import NamedTuple

INITIAL_LINK = bytes(32)
"""The predecessor of the first link of a chain, 32 zero bytes."""
SEGMENTS = "SELECT CAST(substr(name, 7) AS INTEGER) AS first, value AS last FROM counter WHERE name GLOB 'chain *'"
"""SQL query of the segments of the chain: first and last offset, or 0 as the last one of the open segment."""
_HEAD_PATTERN = re.compile(rf"([0-9]{{1,16}}):([0-9a-fA-F]{{{2 * len(INITIAL_LINK)}}})")
_position_format = Struct(">qqq")


class ChainHead(NamedTuple):
    """The last link of a chain at some time.

    A copy stored elsewhere later proves that nothing before it changed.
    """

    offset: int
    link: bytes

    def __str__(self) -> str:
        return f"{self.offset}:{self.link.hex()}"


def segment_name(first: int) -> str:
    """Returns the name of a segment's row in `counter`."""
    return f"chain {first}"


def hash_body(body: bytes) -> bytes:
    """Returns the hash of an event's body; it remains in the chain when the event is deleted."""
    return sha256(body).digest()


def compute_link(previous: bytes, offset: int, session: int, seq: int, digest: bytes) -> bytes:
    """Returns the link of the event at `offset`; `previous` is the link of the event before it."""
    return sha256(previous + _position_format.pack(offset, session, seq) + digest).digest()


def parse_head(text: str) -> ChainHead:
    """Returns the head from its printed form. Raises ValueError."""
    found = _HEAD_PATTERN.fullmatch(text.strip())
    if not found:
        raise ValueError(
            f"{text!r} is not a chain head: it must be OFFSET:HEX, with {2 * len(INITIAL_LINK)} digits after the colon"
        )
    return ChainHead(int(found[1]), bytes.fromhex(found[2]))
