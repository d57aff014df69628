"""Words: those a person searches for, as the index is asked for them, and those that the tokenizer does not tell apart:
letters of scripts that write no spaces, and signs it does not know.
"""

import re
import unicodedata

WORD_SEPARATOR = "\x01"
"""Stands around what is to be a word by itself; no letter to the tokenizer, and none to a reader."""
_WITHOUT_SPACES = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7af"  # Hangul has spaces, but what stands between two is a word with all that is hung on it
)
# SQLite's tokenizer knows Unicode 6.1 and takes all that has come since for letters: "great🥳" would be one word. These
# are the signs among them.
_UNKNOWN_SYMBOLS = (
    "\u061c\u2066-\u2069"  # directions
    "\u20ba-\u20cf"  # currencies
    "\u23f4-\u23ff\u2700\u2b4d-\u2bff\u2e3c-\u2e7f"  # technical, dingbats, arrows, punctuation
    "\ufdd0-\ufdef"  # no characters, and never will be
    "\U0001f000-\U0001fbef"  # emoji, skin tones, cards, pictographs
)
_ISOLATED = re.compile(f"[{_WITHOUT_SPACES}{_UNKNOWN_SYMBOLS}]{{1,4096}}")
_TERM = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')


def isolate_characters(text: str) -> str:
    """The text with each such letter or sign a word of its own.

    A word of such letters is then found as a phrase of them, wherever it stands and however short it is.
    """
    return text if text.isascii() else _ISOLATED.sub(_isolate_run, text)


def _isolate_run(run: re.Match[str]) -> str:
    # A run at a time: letter by letter takes six times as long. No longer a run than that: between two of them the loop
    # has its turn, which shares the interpreter with the writer; for a message of 4 MiB it would wait 0.1 s.
    return f"{WORD_SEPARATOR}{WORD_SEPARATOR.join(run[0])}{WORD_SEPARATOR}"


def query_terms(query: str) -> list[str]:
    """What a person typed, in the index's own language: words, "words in a row", the begin* of a word.

    All else is no sign but part of a word, and what has no letter or digit is left out; it may leave nothing.
    """
    found: dict[str, None] = {}
    for phrase, star, word in _TERM.findall(query.encode(errors="replace").decode().replace("\0", " ")):
        text = phrase or word.rstrip("*")
        if any(map(_is_word_character, text)):
            begins = star or word.endswith("*")
            found[f'"{isolate_characters(text)}"{"*" if begins else ""}'] = None
    return list(found)


def _is_word_character(character: str) -> bool:
    """Whether the tokenizer takes it for a part of a word."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "Co"
