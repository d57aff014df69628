"""What a fork inherits: the logs that it comes from, read for their messages. They are read from the store, and each
only up to the point where the next one left it: whether a parent lives, goes on or is closed makes no difference.
"""

from typing import NamedTuple

from walrus_protocol.content import Message
from walrus_protocol.events import Parent
from walrusd.runtime.errors import decode_event, unreadable_log
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.session.conversation import Conversation
from walrusd.store.contract import Log


class InheritedMessages(NamedTuple):
    """`size`: bytes of the logs that were read."""

    messages: list[Message]
    size: int


async def read_inherited(log: Log, parent: Parent) -> InheritedMessages:
    """What the model saw at that point. Raises Problem where a log cannot be read, and StorageFailed."""
    generations: list[list[Message]] = []
    size, ancestor = 0, parent
    while True:
        conversation, length = await _read_up_to(log, ancestor)
        generations.append(conversation.own_messages())
        size += length
        if conversation.missing_parent is None:
            return InheritedMessages([message for own in reversed(generations) for message in own], size)
        ancestor = conversation.missing_parent


async def _read_up_to(log: Log, point: Parent) -> tuple[Conversation, int]:
    conversation, size, seq = Conversation(), 0, 0
    while seq < point.seq:
        rows = await log.events(point.session, seq, min(PAGE_ROWS, point.seq - seq))
        if not rows:
            raise unreadable_log(point.session, seq + 1, "it ends there")
        for row in rows:
            conversation.apply(row.seq, decode_event(point.session, row))
            size += len(row.body)
        seq = rows[-1].seq
    return conversation, size
