"""Words: those a person searches for, as the index is asked for them, and those of scripts that write no spaces."""

import re
import unicodedata

APART = "\x01"
"""Stands between the letters of a script without spaces; no letter to the tokenizer, and none to a reader."""
_WITHOUT_SPACES = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7af"  # Hangul has spaces, but what stands between two is a word with all that is hung on it
)
_LETTER = re.compile(f"[{_WITHOUT_SPACES}]")
_TERM = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')


def apart(text: str) -> str:
    """The text with each letter of such a script a word of its own.

    A word of these is then found as a phrase of its letters, wherever it stands and however short it is.
    """
    return text if text.isascii() else _LETTER.sub(rf"{APART}\g<0>{APART}", text)


def terms(query: str) -> list[str]:
    """What a person typed, in the index's own language: words, "words in a row", the begin* of a word.

    All else is no sign but part of a word, and what has no letter or digit is left out; it may leave nothing.
    """
    found: dict[str, None] = {}
    for phrase, star, word in _TERM.findall(query.encode(errors="replace").decode().replace("\0", " ")):
        text = phrase or word.rstrip("*")
        if any(map(_counts, text)):
            begins = star or word.endswith("*")
            found[f'"{apart(text)}"{"*" if begins else ""}'] = None
    return list(found)


def _counts(character: str) -> bool:
    """Whether the tokenizer takes it for a part of a word."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "Co"
