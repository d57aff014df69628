"""Full-text search in messages: the index gives the hits, newest first; the events give the snippets.

Hits are ordered by time and not by relevance: the index is walked backwards until the page is full, which takes 1 ms
for any word among a million messages. Ranking would take 370 ms for a word that half of them contain. Only queries that
cannot stop early are slow: a phrase whose words never occur in sequence (50 ms) and a prefix of very many words (w*:
200 ms).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import starmap
from typing import NamedTuple

import apsw

from walrus_protocol.database.schema import FULL_BODY
from walrus_protocol.methods.search import Hit, Mark
from walrusd.store.migrations.m003_search import TOKENIZER
from walrusd.store.tables.searchable_text import WORD_SEPARATOR, SearchableText, isolate_characters, searchable_text

HITS = f"""
SELECT event."offset", session, seq, {FULL_BODY}, ifnull((SELECT agent FROM session WHERE id = event.session), '')
FROM (
    SELECT rowid FROM said WHERE said MATCH :words AND rowid < :before
    AND NOT EXISTS (SELECT 1 FROM event CROSS JOIN remains USING (session) WHERE event."offset" = said.rowid)
    ORDER BY rowid DESC LIMIT :limit
) AS hit
CROSS JOIN event ON event."offset" = hit.rowid ORDER BY hit.rowid DESC
"""  # noqa: S608 - only our own text
MAX_HIGHLIGHTED = 100_000
"""Maximum characters of a text that are searched for words to mark.

Matches beyond them are hits without a mark.
"""
_TERM = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')
SNIPPET_WORDS = 24
"""Maximum words of a snippet."""
MAX_SNIPPET = 240
"""Maximum characters of a snippet: a single word may be as long as a text."""
SNIPPET_LEAD = 80
"""Characters of context shown before the first match (part of MAX_SNIPPET)."""

_MARK_START, _MARK_END = "\x02", "\x03"
_RESERVED = re.compile(f"[\0{WORD_SEPARATOR}{_MARK_START}{_MARK_END}]")
"""Characters that a text must not contain: our separators, and NUL, which ends SQLite's snippets."""
_MARK_SPLITTER = re.compile(f"([{_MARK_START}{_MARK_END}])")
_TABLE = f"CREATE VIRTUAL TABLE text USING fts5 (said, tokenize='{TOKENIZER}')"
_MARKED = "SELECT rowid, snippet(text, 0, :open, :close, '…', :words_shown) FROM text WHERE text MATCH :words"


class SearchRow(NamedTuple):
    """An event with its session and agent."""

    offset: int
    session: int
    seq: int
    body: bytes
    agent: str


def search(db: apsw.Connection, query: str, before: int, limit: int) -> list[Hit]:
    """Returns the messages with all words of the query and an offset below `before`, newest first."""
    words = query_terms(query)
    if not words:
        return []
    rows = starmap(SearchRow, db.execute(HITS, {"words": " ".join(words), "before": before, "limit": limit}))
    found = [(row._replace(body=b""), _clip_text(one)) for row in rows if (one := searchable_text(row.body))]
    # A temporary index of the texts marks the words.
    with _temporary_index((row.offset, one.text) for row, one in found) as index:
        bindings = {"words": " OR ".join(words), "open": _MARK_START, "close": _MARK_END, "words_shown": SNIPPET_WORDS}
        marked: dict[int, str] = dict(index.execute(_MARKED, bindings))
    return [_hit(row, one, *_cut_snippet(marked.get(row.offset, one.text))) for row, one in found]


def _hit(row: SearchRow, found: SearchableText, snippet: str, marks: tuple[Mark, ...]) -> Hit:
    return Hit(
        session=row.session,
        seq=row.seq,
        offset=row.offset,
        agent=row.agent,
        role=found.role,
        ts=found.ts,
        snippet=snippet,
        marks=marks,
    )


def _clip_text(found: SearchableText) -> SearchableText:
    return SearchableText(found.role, found.ts, " ".join(_RESERVED.sub(" ", found.text[:MAX_HIGHLIGHTED]).split()))


@contextmanager
def _temporary_index(texts: Iterable[tuple[int, str]]) -> Iterator[apsw.Connection]:
    """Yields an index in memory of some texts, by their offsets."""
    db = apsw.Connection(":memory:")
    try:
        db.execute(_TABLE)
        db.executemany(
            "INSERT INTO text (rowid, said) VALUES (?, ?)",
            ((offset, isolate_characters(text)) for offset, text in texts),
        )
        yield db
    finally:
        db.close()


def _cut_snippet(marked: str) -> tuple[str, tuple[Mark, ...]]:
    """Returns the text without the mark characters, and the marks as positions.

    If the text is long, it returns the part around the first mark.
    """
    text, marks, start = "", [], 0
    for piece in _MARK_SPLITTER.split(marked.replace(WORD_SEPARATOR, "")):
        if piece == _MARK_START:
            start = len(text)
        elif piece == _MARK_END:
            marks.append(Mark(start, len(text)))
        else:
            text += piece
    first = max(0, marks[0].start - SNIPPET_LEAD) if marks and len(text) > MAX_SNIPPET else 0
    last = min(len(text), first + MAX_SNIPPET)
    snippet = ("…" if first else "") + text[first:last] + ("…" if last < len(text) else "")
    shift = len("…") - first if first else 0
    clipped = ((max(mark.start, first), min(mark.end, last)) for mark in marks)
    return snippet, tuple(Mark(begin + shift, end + shift) for begin, end in clipped if begin < end)


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
