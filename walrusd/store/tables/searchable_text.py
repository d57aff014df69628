"""The search index: the texts of messages of users and models, by the offset of their event.

Tool outputs are not covered: they are most of the bytes of a log, and no person wrote them. Nor are automatic user
messages (heartbeat, schedule, resume): they are the same every time.

Characters that SQLite's tokenizer does not separate are isolated: letters of scripts without spaces, and symbols that
it does not know.
"""

import re
from typing import Literal

from msgspec import Struct

from walrus_protocol.content import Content, plain_text
from walrus_protocol.json import BadJson, Decoder
from walrusd.store.tables.table import BatchStatement, Table

AUTOMATIC_KINDS = frozenset({"heartbeat", "schedule", "resume"})
"""Kinds of user messages that walrusd itself writes."""
INSERT = BatchStatement("INSERT INTO said (rowid, text) VALUES", 2)

WORD_SEPARATOR = "\x01"
"""Surrounds a character that is a word by itself.

It is invisible, and the tokenizer does not treat it as a letter.
"""
_WITHOUT_SPACES = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7af"  # Hangul has spaces, but a word between two includes its suffixes
)
# SQLite's tokenizer knows Unicode 6.1 and takes all later characters for letters: "great🥳" would be one word. These
# are the symbols among them.
_UNKNOWN_SYMBOLS = (
    "\u061c\u2066-\u2069"  # directions
    "\u20ba-\u20cf"  # currencies
    "\u23f4-\u23ff\u2700\u2b4d-\u2bff\u2e3c-\u2e7f"  # technical, dingbats, arrows, punctuation
    "\ufdd0-\ufdef"  # noncharacters, which will never be assigned
    "\U0001f000-\U0001fbef"  # emoji, skin tones, cards, pictographs
)
_ISOLATED = re.compile(f"[{_WITHOUT_SPACES}{_UNKNOWN_SYMBOLS}]{{1,4096}}")

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


def isolate_characters(text: str) -> str:
    """Returns the text with each such letter or symbol as a separate word.

    A word of such letters is then found as a phrase of them, at any position and of any length.
    """
    return text if text.isascii() else _ISOLATED.sub(_isolate_run, text)


def _isolate_run(run: re.Match[str]) -> str:
    # One run at a time: letter by letter takes six times as long. Runs have at most 4,096 letters: between two of them
    # trio's loop, which shares the GIL with the writer, can run; for a message of 4 MiB it would wait 0.1 s.
    return f"{WORD_SEPARATOR}{WORD_SEPARATOR.join(run[0])}{WORD_SEPARATOR}"
