"""What is searched for: what people and models have said. Taken from the rows of the log, and from nothing else.

Not what tools gave out, which is most of the bytes of a log and nobody's words, and not what the clock or a restart
says in a person's place, the same every time.
"""

from typing import Literal

from msgspec import Struct

from walrus_protocol.content import Content, plain_text
from walrus_protocol.json import BadJson, Decoder

AUTOMATIC_KINDS = frozenset({"heartbeat", "schedule", "resume"})
"""Kinds of a user message that no person wrote for it."""
_USER_PREFIX = b'{"type":"user_message",'
_ASSISTANT_PREFIX = b'{"type":"assistant_message",'


class SearchableText(Struct, frozen=True):
    role: Literal["user", "assistant"]
    ts: float
    text: str


class _Message(Struct, frozen=True):
    """The few fields of an event that count here; the others are passed over undecoded."""

    ts: float = 0.0
    content: Content = ""
    kind: str = ""


_decoder = Decoder(_Message)


def searchable_text(body: bytes) -> SearchableText | None:
    """None for the row of an event that says nothing, and for one that another version wrote in another way."""
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
