"""Reads the messages that a fork inherits from the logs of its ancestors.

Each log is read from the store, up to the point of the fork. So it makes no difference whether the parent is in memory,
continues or is closed.
"""

from typing import NamedTuple

from walrus_protocol.content import Message
from walrus_protocol.events import Parent
from walrusd.runtime.errors import decode_event, unreadable_log
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.session.conversation import Conversation
from walrusd.store.contract import Log


class InheritedMessages(NamedTuple):
    """The inherited messages, oldest first. `size`: bytes of the logs that were read for them."""

    messages: list[Message]
    size: int


async def read_inherited(log: Log, parent: Parent) -> InheritedMessages:
    """Returns the messages that the model saw at `parent`.

    Raises Problem storage_failed if a log cannot be read, and StorageFailed.
    """
    per_ancestor: list[list[Message]] = []
    size, ancestor = 0, parent
    while True:
        conversation, length = await _read_up_to(log, ancestor)
        per_ancestor.append(conversation.own_messages())
        size += length
        if conversation.missing_parent is None:
            return InheritedMessages([message for messages in reversed(per_ancestor) for message in messages], size)
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
