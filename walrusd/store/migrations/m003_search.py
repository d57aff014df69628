"""Migration 3: the search index, filled from the log. It takes long for a large log."""

from collections.abc import Iterator

import apsw

from walrusd.store.tables.searchable_text import isolate_characters, searchable_text

TOKENIZER = "unicode61 remove_diacritics 2"
"""FTS5 tokenizer options: words match whatever their case and accents."""

# The text is stored only in the event; the id of a row is the offset of its event, and rows are deleted by that id.
TABLES = f"""
CREATE VIRTUAL TABLE said USING fts5 (text, content='', contentless_delete=1, tokenize='{TOKENIZER}');
"""


def m003_search(db: apsw.Connection) -> None:
    db.execute(TABLES)
    db.executemany("INSERT INTO said (rowid, text) VALUES (?, ?)", _all_searchable_texts(db))


def _all_searchable_texts(db: apsw.Connection) -> Iterator[tuple[int, str]]:
    for offset, body in db.execute('SELECT "offset", body FROM event ORDER BY "offset"'):
        if one := searchable_text(body):
            yield offset, isolate_characters(one.text)
