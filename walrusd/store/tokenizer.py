"""Prepares texts and queries for the tokenizer of the search index.

It isolates characters that the tokenizer does not separate: letters of scripts without spaces, and symbols that the
tokenizer does not know. It also translates a person's query into the syntax of the index.
"""

import re
import unicodedata

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
_TERM = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')


def isolate_characters(text: str) -> str:
    """Returns the text with each such letter or symbol as a separate word.

    A word of such letters is then found as a phrase of them, at any position and of any length.
    """
    return text if text.isascii() else _ISOLATED.sub(_isolate_run, text)


def _isolate_run(run: re.Match[str]) -> str:
    # One run at a time: letter by letter takes six times as long. Runs have at most 4,096 letters: between two of them
    # trio's loop, which shares the GIL with the writer, can run; for a message of 4 MiB it would wait 0.1 s.
    return f"{WORD_SEPARATOR}{WORD_SEPARATOR.join(run[0])}{WORD_SEPARATOR}"


def query_terms(query: str) -> list[str]:
    """Translates a query to terms of the index: words, "phrases in quotes", and prefix* of a word.

    All other characters are part of a word. A word without a letter or digit is omitted, so the result may be empty.
    """
    terms: dict[str, None] = {}
    for phrase, star, word in _TERM.findall(query.encode(errors="replace").decode().replace("\0", " ")):
        text = phrase or word.rstrip("*")
        if any(map(_is_word_character, text)):
            is_prefix = star or word.endswith("*")
            terms[f'"{isolate_characters(text)}"{"*" if is_prefix else ""}'] = None
    return list(terms)


def _is_word_character(character: str) -> bool:
    """Returns True if the tokenizer takes the character for part of a word."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "Co"
