"""The search index: the texts of messages of users and models, by the offset of their event.

Tool outputs are not covered: they are most of the bytes of a log, and no person wrote them. Nor are automatic user
messages (heartbeat, schedule, resume): they are the same every time.
"""

from typing import Literal

from msgspec import Struct

from walrus_protocol.content import Content, plain_text
from walrus_protocol.json import BadJson, Decoder
from walrusd.store.tables.statements import BatchStatement
from walrusd.store.tables.table import Table

AUTOMATIC_KINDS = frozenset({"heartbeat", "schedule", "resume"})
"""Kinds of user messages that walrusd itself writes."""
INSERT = BatchStatement("INSERT INTO said (rowid, text) VALUES", 2)

TABLES = (Table(name="said"),)

_USER_PREFIX = b'{"type":"user_message",'
_ASSISTANT_PREFIX = b'{"type":"assistant_message",'


class SearchableText(Struct, frozen=True):
    """The text of a message, with its role and its time."""

    role: Literal["user", "assistant"]
    ts: float
    text: str


class _Message(Struct, frozen=True):
    """The fields of an event that are needed here; the others are skipped without decoding."""

    ts: float = 0.0
    content: Content = ""
    kind: str = ""


_decoder = Decoder(_Message)


def searchable_text(body: bytes) -> SearchableText | None:
    """Returns the text of a message, or None if the event is no message, has no text or cannot be decoded."""
    user = body.startswith(_USER_PREFIX)
    if not user and not body.startswith(_ASSISTANT_PREFIX):
        return None
    try:
        message = _decoder.decode(body)
    except BadJson:
        return None
    text = plain_text(message.content)
    if not text or message.kind in AUTOMATIC_KINDS:
        return None
    return SearchableText("user" if user else "assistant", message.ts, text)
