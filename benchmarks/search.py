"""Measures `session.search` over a million messages, and the start that indexes an older store."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, chain, count, islice
from pathlib import Path
from statistics import quantiles

import apsw

from benchmarks.children import make_home, walrusd
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50
from benchmarks.wire import RawConnection
from walrus_protocol.events import AssistantMessage, UserMessage, encode
from walrusd.session import session_state
from walrusd.session.session_state import SessionState
from walrusd.store.database import open_for_reading
from walrusd.store.migrations import MIGRATIONS, migrate
from walrusd.store.search import query_terms

MESSAGES = 1_000_000
MESSAGES_PER_SESSION = 1_000
QUERIES = 100
"""Number of queries of each kind."""
VOCABULARY = 60_000
LENGTHS = (8, 12, 20, 30, 60, 100)
"""Possible numbers of words in a message."""
SCHEMA_BEFORE_SEARCH = 2
"""The last schema version without a search index."""
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]


class Language:
    """A made-up language whose word frequencies are like those of natural languages: few words are common."""

    def __init__(self) -> None:
        self._random = random.Random(7)
        syllable_counts = chain.from_iterable([n] * VOCABULARY for n in (1, 2, 3, 4))
        candidates = ("".join(self._random.choices(SYLLABLES, k=length)) for length in syllable_counts)
        self.words = list(islice(dict.fromkeys(candidates), VOCABULARY))
        self._weights = list(accumulate(1 / (rank + 2.7) ** 1.07 for rank in range(VOCABULARY)))
        self._text_pool = self.sample_words(1_000_000)

    def sample_words(self, number: int) -> list[str]:
        """Returns random words with the frequencies of a text."""
        return self._random.choices(self.words, cum_weights=self._weights, k=number)

    def text(self, words: int | None = None) -> str:
        length = words or self._random.choice(LENGTHS)
        start = self._random.randrange(len(self._text_pool) - length)
        return " ".join(self._text_pool[start : start + length])

    def rare_word(self) -> str:
        return self._random.choice(self.words)


def run(setup: Setup) -> list[Measurement]:
    home = make_home(setup.folder / "search", setup.url)
    language, messages = Language(), setup.scale(MESSAGES)
    path = home / "walrus.db"
    took = _seed_store(path, language, messages)
    kinds: dict[str, Callable[[], str]] = {
        "a word": lambda: language.sample_words(1)[0],
        "three words": lambda: " ".join(language.sample_words(3)),
        "words in a row": lambda: f'"{language.text(3)}"',
        "a rare word": language.rare_word,
        "words never together": lambda: f"{language.rare_word()} {language.rare_word()}",
        "the beginning of a word": lambda: f"{language.sample_words(1)[0][:3]}*",
    }
    queries_by_kind = {kind: [make() for _ in range(setup.scale(QUERIES))] for kind, make in kinds.items()}
    with walrusd(home) as daemon:
        connection = daemon.connect()
        times_by_kind = {
            kind: [_time_search(connection, query) for query in queries] for kind, queries in queries_by_kind.items()
        }
        connection.close()
    db = open_for_reading(str(path))
    floors = [_time_index_query(db, query) for queries in queries_by_kind.values() for query in queries]
    db.close()
    all_times = list(chain.from_iterable(times_by_kind.values()))
    each = ", ".join(f"{kind} {ms(p50(times))}/{ms(_p95(times))}" for kind, times in times_by_kind.items())
    return [
        Measurement(
            what=f"search over {messages:,} messages, p95",
            measured=f"{ms(_p95(all_times))} (p50 {ms(p50(all_times))}, at most {ms(max(all_times))})",
            floor=f"{ms(_p95(floors))} the index alone",
            ratio=_p95(all_times) / _p95(floors),
            bar="≤ 50 ms",
            met=_p95(all_times) <= 0.05,
            values={
                "p95_s": _p95(all_times),
                "p50_s": p50(all_times),
                "max_s": max(all_times),
                "floor_p95_s": _p95(floors),
            },
        ),
        Measurement(
            what="by kind of query, p50/p95",
            measured=each,
            values={kind: _p95(times) for kind, times in times_by_kind.items()},
        ),
        Measurement(
            what=f"building the index of {messages:,} messages at a start",
            measured=f"{took:.1f} s, {path.stat().st_size / 1e6:,.0f} MB database with it",
            values={"made_s": took, "db_bytes": path.stat().st_size},
        ),
    ]


def _seed_store(path: Path, language: Language, messages: int) -> float:
    """Writes a store of the schema before search and migrates it; returns the seconds of the migration."""
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    with db:
        for step in MIGRATIONS[:SCHEMA_BEFORE_SEARCH]:
            step(db)
        db.pragma("user_version", SCHEMA_BEFORE_SEARCH)
        for first in range(0, messages, MESSAGES_PER_SESSION):
            number = first // MESSAGES_PER_SESSION + 1
            state = SessionState(
                id=number, state="idle", agent="walrus", last_seq=MESSAGES_PER_SESSION, messages=MESSAGES_PER_SESSION
            )
            db.execute("INSERT INTO session VALUES (?, 'walrus', 'idle', 0, ?)", (number, session_state.encode(state)))
            bodies = islice(_conversation(language, number), MESSAGES_PER_SESSION)
            rows = ((number, seq, body) for seq, body in enumerate(bodies, 1))
            db.executemany("INSERT INTO event (session, seq, body) VALUES (?, ?, ?)", rows)
    began = time.perf_counter()
    migrate(db)
    took = time.perf_counter() - began
    db.close()
    path.chmod(0o600)
    return took


def _conversation(language: Language, session: int) -> Iterator[bytes]:
    for turn in count(1):
        yield encode(UserMessage(session=session, turn=turn, ts=float(turn), content=language.text()))
        yield encode(AssistantMessage(session=session, turn=turn, ts=float(turn), round=1, content=language.text()))


def _time_search(connection: RawConnection, query: str) -> float:
    began = time.perf_counter()
    connection.call("session.search", {"query": query})
    return time.perf_counter() - began


def _time_index_query(db: apsw.Connection, query: str) -> float:
    began = time.perf_counter()
    sql = "SELECT rowid FROM said WHERE said MATCH ? ORDER BY rowid DESC LIMIT 50"
    db.execute(sql, (" ".join(query_terms(query)),)).fetchall()
    return time.perf_counter() - began


def _p95(times: list[float]) -> float:
    return quantiles(times, n=20)[-1]
