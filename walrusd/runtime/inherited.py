"""What a fork inherits: the logs that it comes from, read for their messages. They are read from the store, and each
only up to the point where the next one left it: whether a parent lives, goes on or is closed makes no difference.
"""

from typing import NamedTuple

from walrus_protocol.content import Message
from walrus_protocol.events import Parent
from walrusd.runtime.bus import PAGE
from walrusd.runtime.told import readable, unreadable
from walrusd.session.conversation import Conversation
from walrusd.store.log import Log


class Inherited(NamedTuple):
    """`size`: bytes of the logs that were read."""

    messages: list[Message]
    size: int


async def inherited(log: Log, parent: Parent) -> Inherited:
    """What the model saw at that point. Raises Problem where a log cannot be read, and StorageFailed."""
    generations: list[list[Message]] = []
    size, ancestor = 0, parent
    while True:
        conversation, length = await _up_to(log, ancestor)
        generations.append(conversation.own())
        size += length
        if conversation.missing is None:
            return Inherited([message for own in reversed(generations) for message in own], size)
        ancestor = conversation.missing


async def _up_to(log: Log, point: Parent) -> tuple[Conversation, int]:
    conversation, size, seq = Conversation(), 0, 0
    while seq < point.seq:
        rows = await log.events(point.session, seq, min(PAGE, point.seq - seq))
        if not rows:
            raise unreadable(point.session, seq + 1, "it ends there")
        for row in rows:
            conversation.apply(row.seq, readable(point.session, row))
            size += len(row.body)
        seq = rows[-1].seq
    return conversation, size
